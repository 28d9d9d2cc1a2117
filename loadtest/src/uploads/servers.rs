//! The servers that are compared. What each does before it answers differs:
//!
//! - Headroom checks the content, computes BLAKE3 and SHA-256, syncs file and folder, and commits a row in PostgreSQL.
//! - Express with multer writes the file: no sync, no hash, no check. The second variant syncs file and folder, and computes
//!   SHA-256.
//! - @tus/server writes the file and one with its facts: no sync, no hash, no check.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use headroom_test_support::server::{Options, Server};
use tempfile::TempDir;

use crate::running::Running;
use crate::{Result, node};

/// How files are sent.
#[derive(Clone, Copy)]
pub(super) enum Protocol {
    /// As a form, to this path.
    Form(&'static str),
    /// By tus, to this path.
    Tus(&'static str),
}

/// A server that is compared.
pub(super) struct ServerKind {
    pub(super) label: &'static str,
    protocol: Protocol,
    program: Program,
}

enum Program {
    /// The server's binary, with a private PostgreSQL.
    Headroom,
    /// A file in `peers/node`.
    Node {
        file: &'static str,
        is_durable: bool,
    },
}

/// All servers.
pub(super) const SERVERS: [ServerKind; 5] = [
    ServerKind {
        label: "Headroom",
        protocol: Protocol::Form("/api/uploads"),
        program: Program::Headroom,
    },
    ServerKind {
        label: "Headroom, tus",
        protocol: Protocol::Tus("/api/uploads/tus"),
        program: Program::Headroom,
    },
    ServerKind {
        label: "Express + multer",
        protocol: Protocol::Form("/api/uploads"),
        program: Program::Node {
            file: "multer.js",
            is_durable: false,
        },
    },
    ServerKind {
        label: "Express + multer, sync, SHA-256",
        protocol: Protocol::Form("/api/uploads"),
        program: Program::Node {
            file: "multer.js",
            is_durable: true,
        },
    },
    ServerKind {
        label: "@tus/server",
        protocol: Protocol::Tus("/api/uploads/tus"),
        program: Program::Node {
            file: "tus.js",
            is_durable: false,
        },
    },
];

impl ServerKind {
    /// Whether its programs are installed. Says so if they are not.
    pub(super) fn can_run(&self) -> bool {
        let can_run = node::is_installed() || matches!(self.program, Program::Headroom);
        if !can_run {
            println!("left out: {} (scripts/setup.sh bench_peers)", self.label);
        }
        can_run
    }
}

/// A running server.
pub(super) struct Started {
    process: Process,
    protocol: Protocol,
    folder: PathBuf,
}

enum Process {
    Headroom(Box<Server>),
    Node(
        Running,
        #[expect(dead_code, reason = "its drop removes it")] TempDir,
    ),
}

impl Started {
    /// Starts a server with an empty folder.
    pub(super) fn start(kind: &ServerKind, binary: &Path) -> Result<Self> {
        let (process, folder) = match kind.program {
            Program::Headroom => {
                let options = Options::new(binary.canonicalize()?).settings("log.filter = 'warn'");
                let server = Server::start(options);
                let folder = server.folder().join("data/uploads");
                (Process::Headroom(Box::new(server)), folder)
            }
            Program::Node { file, is_durable } => {
                let folder = tempfile::tempdir()?;
                let path = folder.path().to_owned();
                let mut command = node::command(file);
                command.env("HEADROOM_LOADTEST_FOLDER", &path).env(
                    "HEADROOM_LOADTEST_DURABLE",
                    if is_durable { "1" } else { "0" },
                );
                (Process::Node(Running::start(command)?, folder), path)
            }
        };
        Ok(Self {
            process,
            protocol: kind.protocol,
            folder,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        match &self.process {
            Process::Headroom(server) => server.address(),
            Process::Node(running, _) => running.address,
        }
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The folder of its files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn pid(&self) -> u32 {
        match &self.process {
            Process::Headroom(server) => server.pid(),
            Process::Node(running, _) => running.pid(),
        }
    }
}
