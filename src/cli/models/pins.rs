//! Pins and unpins a resource on a running server.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

use super::Asking;
use crate::cli::Failure;
use crate::cli::client::encoded;
use crate::cli::output::{one_line, print};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PinArgs {
    /// The resource (silero-vad:1), or a model for its default version (silero-vad)
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    asking: Asking,
}

/// What is read of the state of the resource.
#[derive(Deserialize)]
struct Pinned {
    name: String,
}

/// Pins or unpins.
pub(super) async fn set(args: &PinArgs, pinned: bool) -> Result<(), Failure> {
    let client = args.asking.client()?;
    let path = format!("/api/performance/lazy-loader/pins/{}", encoded(&args.name));
    let method = if pinned { Method::PUT } else { Method::DELETE };
    let answer = client.send(method, &path, None, Duration::ZERO).await?;
    let resource = answer.read::<Pinned>()?;
    if args.asking.json {
        return resource.print();
    }
    let name = one_line(&resource.content.name);
    print(&match pinned {
        true => format!("{name} is pinned\n"),
        false => format!("{name} is not pinned\n"),
    })
}
