//! A process below the server's that takes memory when told to, and that nobody reserved it for.

#![expect(clippy::expect_used, reason = "how a test fails")]

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::server::{Options, Server};

/// Holds the way to the process, which ends with the server.
#[derive(Debug)]
pub struct Ballast {
    orders: File,
    pipe: PathBuf,
    _folder: TempDir,
}

impl Ballast {
    /// No process yet.
    ///
    /// # Panics
    /// When no pipe can be made; so for all functions here.
    #[expect(clippy::new_without_default, reason = "it makes a pipe on disk")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join("orders");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        // Opened for both, so that neither end waits for the other.
        let mut both = File::options();
        let orders = both.read(true).write(true).open(&pipe);
        Self {
            orders: orders.expect("the pipe is opened"),
            pipe,
            _folder: folder,
        }
    }

    /// A server that has the process as its child: its command becomes that of a shell that has
    /// started it before.
    #[track_caller]
    pub fn serve(&self, options: Options) -> Server {
        let grow = "import sys\nfor line in sys.stdin:\n  held = None\n  \
                    held = bytearray(b'x') * int(line)";
        let pipe = self.pipe.display();
        let start = format!(
            "setpriv --pdeathsig KILL python3 -c \"{grow}\" < '{pipe}' & exec \"$0\" \"$@\""
        );
        Server::start(options.launched_by(&["sh", "-c", &start]))
    }

    /// Has the process hold so many bytes, instead of what it held.
    pub fn take(&self, bytes: u64) {
        writeln!(&self.orders, "{bytes}").expect("an order");
    }
}
