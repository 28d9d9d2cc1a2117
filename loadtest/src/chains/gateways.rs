//! The gateways that are compared, each in front of one node. What each does differs:
//!
//! - Headroom checks the provider, resolves `latest`, keeps answers, and asks another provider when one fails.
//! - nginx passes bytes on.
//! - ethers' `FallbackProvider` reads each answer and makes objects of it, and keeps answers for a quarter of a second.

use std::net::SocketAddr;
use std::path::Path;

use headroom_test_support::anvil::CHAIN_ID;
use headroom_test_support::process_tree::tree_pss;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for};
use serde_json::Value;

use super::nginx::{self, Nginx};
use super::upstreams::Upstream;
use crate::client::{Connection, get, post};
use crate::running::Running;
use crate::{Result, node};

pub(super) const DIRECT: &str = "direct";
pub(super) const HEADROOM: &str = "Headroom";
pub(super) const NGINX: &str = "nginx";

/// A gateway that is compared.
pub(super) struct Kind {
    pub(super) label: &'static str,
    program: Program,
}

enum Program {
    /// None: the node itself.
    Direct,
    /// The server's binary, with so many providers, all of them the same node.
    Headroom {
        providers: usize,
    },
    Nginx,
    /// A file in `peers/node`.
    Node(&'static str),
}

/// All gateways. The first is what the others are compared with.
pub(super) const KINDS: [Kind; 5] = [
    Kind {
        label: DIRECT,
        program: Program::Direct,
    },
    Kind {
        label: HEADROOM,
        program: Program::Headroom { providers: 1 },
    },
    Kind {
        label: "Headroom, 3 providers",
        program: Program::Headroom { providers: 3 },
    },
    Kind {
        label: NGINX,
        program: Program::Nginx,
    },
    Kind {
        label: "Express + ethers FallbackProvider",
        program: Program::Node("chain.js"),
    },
];

impl Kind {
    /// Whether its programs are installed. Says so if they are not.
    pub(super) fn can_run(&self) -> bool {
        let can_run = match self.program {
            Program::Direct | Program::Headroom { .. } => true,
            Program::Nginx => nginx::program().is_some(),
            Program::Node(_) => node::is_installed(),
        };
        if !can_run {
            println!("left out: {} (scripts/setup.sh bench_peers)", self.label);
        }
        can_run
    }

    /// Starts it in front of `upstream`.
    pub(super) fn start(&self, binary: &Path, upstream: &Upstream) -> Result<Gateway> {
        Ok(match self.program {
            Program::Direct => Gateway::Direct(upstream.address),
            Program::Headroom { providers } => {
                Gateway::Headroom(Box::new(start_headroom(binary, upstream, providers)?))
            }
            Program::Nginx => Gateway::Nginx(Nginx::start(upstream.address)?),
            Program::Node(file) => {
                let mut command = node::command(file);
                command
                    .env("HEADROOM_LOADTEST_UPSTREAM", upstream.url())
                    .env("HEADROOM_LOADTEST_CHAIN_ID", CHAIN_ID.to_string());
                Gateway::Node(Running::start(command)?)
            }
        })
    }
}

/// A running gateway.
pub(super) enum Gateway {
    Direct(SocketAddr),
    Headroom(Box<Server>),
    Nginx(Nginx),
    Node(Running),
}

impl Gateway {
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Direct(address) => *address,
            Self::Headroom(server) => server.address(),
            Self::Nginx(nginx) => nginx.address,
            Self::Node(running) => running.address,
        }
    }

    /// The path that takes calls.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Self::Headroom(_) => CHAIN_PATH,
            _ => "/",
        }
    }

    /// The memory of all its processes, in bytes; shared pages are counted once. `None` if there is none.
    pub(super) fn pss(&self) -> Option<u64> {
        match self {
            Self::Direct(_) => None,
            Self::Headroom(server) => Some(tree_pss(server.pid())),
            Self::Nginx(nginx) => Some(nginx.pss()),
            Self::Node(running) => Some(tree_pss(running.pid())),
        }
    }
}

const CHAIN_PATH: &str = "/rpc/dev";

/// Starts Headroom, and waits until it uses all providers.
fn start_headroom(binary: &Path, upstream: &Upstream, providers: usize) -> Result<Server> {
    let mut settings = format!(
        "log.filter = 'warn'\n[chains.dev]\nid = {CHAIN_ID}\nblock_time = '12s'\nfinality_depth = 96\n"
    );
    let url = upstream.url();
    for number in 1..=providers {
        settings += &format!("[chains.dev.providers.p{number}]\nurl = '{url}'\n");
    }
    let server = Server::start(Options::new(binary).settings(&settings));
    let mut connection = Connection::open(server.address())?;
    let call = post(
        CHAIN_PATH,
        r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#,
    );
    // Calls open the chain, and keep its providers from resting.
    wait_for(DEADLINE, || {
        let mut ask = |request: &str| -> Result<Value, String> {
            let answer = connection.ask(request).map_err(|error| error.to_string())?;
            serde_json::from_slice(answer).map_err(|error| error.to_string())
        };
        ask(&call)?;
        let chain = ask(&get("/api/chains/dev"))?;
        let listed = chain["status"]["providers"].as_array();
        let used = listed.map(|all| all.iter().filter(|it| it["is_used"] == true).count());
        match used == Some(providers) {
            true => Ok(()),
            false => Err(chain.to_string()),
        }
    });
    Ok(server)
}
