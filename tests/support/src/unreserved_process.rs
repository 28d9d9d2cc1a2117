//! A child process of the server that allocates memory on command, without a reservation in the budget.

#![expect(clippy::expect_used, reason = "how a test fails")]

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::server::{Options, Server};

/// Controls the process through a named pipe. The process ends with the server.
#[derive(Debug)]
pub struct UnreservedProcess {
    commands: File,
    pipe: PathBuf,
    _folder: TempDir,
}

impl UnreservedProcess {
    /// Makes the pipe. [`Self::start_server`] starts the process.
    ///
    /// # Panics
    /// When the pipe cannot be made.
    #[expect(clippy::new_without_default, reason = "it makes a pipe on disk")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join("commands");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        // Opened for reading and writing, so that neither end waits for the other.
        let commands = File::options().read(true).write(true).open(&pipe);
        Self {
            commands: commands.expect("the pipe can be opened"),
            pipe,
            _folder: folder,
        }
    }

    /// Starts a server that has the process as its child: a shell starts the process and then becomes the server.
    ///
    /// # Panics
    /// When the server does not start.
    #[track_caller]
    pub fn start_server(&self, options: Options) -> Server {
        let program = "import sys\nfor line in sys.stdin:\n  held = None\n  \
                       held = bytearray(b'x') * int(line)";
        let pipe = self.pipe.display();
        let shell = format!(
            "setpriv --pdeathsig KILL python3 -c \"{program}\" < '{pipe}' & exec \"$0\" \"$@\""
        );
        Server::start(options.launched_by(&["sh", "-c", &shell]))
    }

    /// Makes the process hold `bytes`, in place of what it held before.
    ///
    /// # Panics
    /// When the command cannot be written.
    pub fn hold(&self, bytes: u64) {
        writeln!(&self.commands, "{bytes}").expect("the command is written");
    }
}
