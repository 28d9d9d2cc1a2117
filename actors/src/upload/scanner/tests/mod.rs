//! The scanner against a real clamd.

mod faults;
mod health;
mod places;
mod verdicts;

use std::time::Duration;

use bytes::Bytes;
use headroom_test_support::clamd::{Clamd, EICAR_SIGNATURE};

use super::{
    Address, ScanError, ScanStream, Scanner, ScannerConfig, ScannerState, ScannerStatus, Status,
    Verdict, begin, follow,
};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::proxy::Proxy;
use crate::kernel::{Handle, Root, SupervisorSpec};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(30);

const MIB: usize = 1024 * 1024;

struct TestScanner {
    handle: Handle<Scanner>,
    root: Root,
}

impl TestScanner {
    async fn start(system: &TestSystem, config: ScannerConfig) -> Self {
        let handle = Scanner::handle(&config);
        let spec = SupervisorSpec::new("root").child(Scanner::child(&handle, config));
        let root = system.start(spec).await;
        Self { handle, root }
    }

    /// One for `clamd`, over its socket, with default settings.
    async fn of(system: &TestSystem, clamd: &Clamd) -> Self {
        Self::start(system, ScannerConfig::new(unix(clamd))).await
    }

    async fn begin(&self) -> Result<ScanStream, ScanError> {
        begin(&self.handle, LONG).await
    }

    async fn scan(&self, pieces: &[&[u8]]) -> Result<Verdict, ScanError> {
        let mut stream = self.begin().await?;
        for piece in pieces {
            stream.write(Bytes::copy_from_slice(piece)).await?;
        }
        stream.finish().await
    }

    async fn status(&self) -> ScannerStatus {
        self.handle.ask(Status, LONG).await.unwrap()
    }

    async fn stop(self) {
        self.root.stop().await;
    }
}

fn unix(clamd: &Clamd) -> Address {
    Address::Unix(clamd.socket())
}

fn through(proxy: &Proxy) -> Address {
    Address::Tcp(proxy.address().to_string())
}

fn eicar_found() -> Result<Verdict, ScanError> {
    Ok(Verdict::Infected {
        signature: EICAR_SIGNATURE.to_owned(),
    })
}

fn is_unreachable<T: std::fmt::Debug>(result: &Result<T, ScanError>) -> bool {
    matches!(result, Err(ScanError::Unreachable { .. }))
}
