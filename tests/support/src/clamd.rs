//! A real clamd, with a signature for the EICAR test file.

#![expect(clippy::unwrap_used, reason = "how a test fails")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::capability::skip;
use crate::child::{self, Child};
use crate::wait::{DEADLINE, wait_for};

/// Where Debian puts it, which is not in every user's `PATH`.
const PROGRAM: &str = "/usr/sbin/clamd";

/// How clamd reports the EICAR test file. It marks each signature that is not ClamAV's own.
pub const EICAR_SIGNATURE: &str = "Eicar-Test-Signature.UNOFFICIAL";

/// The EICAR test file. Made of two parts, so that no scanner takes this program for it.
pub fn eicar() -> Vec<u8> {
    [
        r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR",
        "-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*",
    ]
    .concat()
    .into_bytes()
}

/// A clamd that ends with the test. It listens on a socket in its own folder, and on a port of the loopback.
#[derive(Debug)]
pub struct Clamd {
    dir: TempDir,
    program: PathBuf,
    port: u16,
    process: Child,
}

impl Clamd {
    /// Starts one, with `settings` in the form of `clamd.conf`. `None` where it is not installed: the test is skipped.
    ///
    /// # Panics
    /// It does not answer.
    pub fn start(settings: &str) -> Option<Self> {
        let Some(program) = child::find("clamd").or_else(|| child::find(PROGRAM)) else {
            skip("clamd is missing (scripts/setup.sh clamav)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let path = dir.path().display();
        let mut hex = String::new();
        for byte in eicar() {
            write!(hex, "{byte:02x}").unwrap();
        }
        for folder in ["signatures", "temporary"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let signature = format!("Eicar-Test-Signature:0:*:{hex}\n");
        std::fs::write(dir.path().join("signatures/test.ndb"), signature).unwrap();
        // Without `User` it stays the user that starts it. A setting that `settings` gives again is replaced.
        let mut config = format!(
            "LocalSocket {path}/socket\n\
             TCPAddr 127.0.0.1\n\
             TCPSocket {port}\n\
             Foreground yes\n\
             DatabaseDirectory {path}/signatures\n\
             TemporaryDirectory {path}/temporary\n"
        );
        if !settings.contains("StreamMaxLength") {
            config.push_str("StreamMaxLength 100M\n");
        }
        config.push_str(settings);
        std::fs::write(dir.path().join("config"), config).unwrap();
        let process = start(&program, dir.path());
        let mut clamd = Self {
            dir,
            program,
            port,
            process,
        };
        clamd.wait_until_ready();
        Some(clamd)
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Its TCP address.
    pub fn tcp(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How many files it receives now. It keeps each in its temporary folder, until the connection closes.
    ///
    /// # Panics
    /// The folder cannot be read.
    pub fn receiving(&self) -> usize {
        let folder = self.dir.path().join("temporary");
        std::fs::read_dir(folder).unwrap().count()
    }

    /// Kills it.
    ///
    /// # Panics
    /// It does not end.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after [`Clamd::kill`], in the same folder.
    ///
    /// # Panics
    /// It does not answer.
    pub fn start_again(&mut self) {
        self.process = start(&self.program, self.dir.path());
        self.wait_until_ready();
    }

    /// Has it load its signatures again, and waits until it has.
    ///
    /// # Panics
    /// It does not.
    pub fn reload(&self) {
        let reloads = || self.log().matches("Database correctly reloaded").count();
        let before = reloads();
        let reply = self.command("RELOAD");
        assert_eq!(reply.as_deref(), Some("RELOADING"));
        wait_for(DEADLINE, || {
            if reloads() > before {
                Ok(())
            } else {
                Err(self.log())
            }
        });
    }

    fn wait_until_ready(&mut self) {
        wait_for(DEADLINE, || {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "{}", self.log());
            if self.command("PING").as_deref() == Some("PONG") {
                Ok(())
            } else {
                Err(self.log())
            }
        });
    }

    /// The answer to a command.
    fn command(&self, command: &str) -> Option<String> {
        let mut connection = UnixStream::connect(self.socket()).ok()?;
        connection
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        connection
            .write_all(format!("z{command}\0").as_bytes())
            .ok()?;
        let mut reply = String::new();
        connection.read_to_string(&mut reply).ok()?;
        Some(reply.trim_end_matches('\0').to_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn start(program: &Path, dir: &Path) -> Child {
    let mut command = child::command(program);
    command.arg("--config-file").arg(dir.join("config"));
    child::start_with_log(&mut command, &dir.join("log")).unwrap()
}
