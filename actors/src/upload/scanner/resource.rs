//! The scanner as a resource of the loader, so that it has a phase, is preloaded and shows on the page as all else does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};

use super::actor::{Check, Scanner};
use super::config::ScannerConfig;
use crate::kernel::{Handle, Load, LoadContext, LoadError, LoadErrorKind, Loaded, Resource};

/// What a connection costs: the kernel's buffers of its socket, and the piece of the file that is sent.
const CONNECTION_BYTES: u64 = 512 * 1024;

/// Describes the scanner to the loader. To load it is to see that clamd answers. clamd's own memory does not count: it
/// is no process of this server.
pub fn resource(
    handle: &Handle<Scanner>,
    config: &ScannerConfig,
    ttl: Option<Duration>,
) -> Resource {
    Resource {
        name: handle.name().to_owned(),
        kind: "scanner",
        depends_on: Vec::new(),
        ttl,
        pinned: false,
        estimated_bytes: CONNECTION_BYTES.saturating_mul(u64::from(config.connections_max)),
        load: Arc::new(ScannerResource(handle.clone())),
    }
}

struct ScannerResource(Handle<Scanner>);

impl Load for ScannerResource {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let handle = self.0.clone();
        let load = async move {
            let checked = handle.ask(Check, context.deadline).await;
            let message = match checked {
                Ok(Ok(())) => {
                    // A scan that fails tells its caller. What is loaded holds nothing that could end.
                    let died = std::future::pending().boxed();
                    return Ok(Loaded { bytes: 0, died });
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => format!("the virus scanner's owner: {error}"),
            };
            Err(LoadError::new(LoadErrorKind::Unavailable, message))
        };
        load.boxed()
    }

    /// Nothing is left to close: each scan has a connection of its own, and has ended.
    fn unload(&self) -> BoxFuture<'static, ()> {
        std::future::ready(()).boxed()
    }
}
