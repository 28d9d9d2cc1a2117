//! What is sampled of the server while it runs.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use headroom_test_support::process_tree::{Process, private_dirty, tree};
use headroom_test_support::protocol::metric_in;
use headroom_test_support::server::Server;
use serde::Serialize;

use super::load::STEADY_HOSTS;
use crate::Result;
use crate::client::{Connection, get};
use crate::scenario::series;

/// One sample.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Sample {
    /// Hours since the load began.
    pub(super) hours: f64,
    /// The server's own process, PSS.
    pub(super) server_bytes: u64,
    /// The zygote and the hosts of all models, PSS.
    pub(super) models_bytes: u64,
    /// The hosts of the models that stay loaded: their own memory, which loads of other models do not change.
    pub(super) steady_hosts_bytes: u64,
    /// The private servers, PSS.
    pub(super) private_servers_bytes: u64,
    /// The processes of the server, itself and those that have ended and were not waited for included.
    pub(super) processes: usize,
    /// The server's own descriptors.
    pub(super) descriptors: usize,
    /// The server's own threads.
    pub(super) threads: usize,
    /// Series on `/metrics`.
    pub(super) series: usize,
    /// Lines that the server has logged so far.
    pub(super) log_lines: u64,
    /// Models that were evicted so far because a load needed their memory.
    pub(super) evictions: f64,
    /// Requests that have failed so far.
    pub(super) failed: u64,
}

/// Samples a server.
pub(super) struct Sampler<'server> {
    server: &'server Server,
    log: Lines,
}

impl<'server> Sampler<'server> {
    pub(super) fn new(server: &'server Server) -> Result<Self> {
        let log = Lines::of(&server.folder().join("log"))?;
        Ok(Self { server, log })
    }

    /// What can be seen of the server now.
    ///
    /// # Errors
    /// The server has ended, or does not answer.
    pub(super) fn sample(&mut self, hours: f64, failed: u64) -> Result<Sample> {
        let mut connection = Connection::open(self.server.admin_address())?;
        let metrics = connection.ask(&get("/metrics"))?;
        let evictions = metric_in(
            &String::from_utf8_lossy(metrics),
            "headroom_lazy_evictions_total",
            &["reason=\"room\""],
        );
        let processes = tree(self.server.pid());
        let (own, others) = processes.split_first().ok_or("the server has ended")?;
        let (models, private_servers): (Vec<_>, Vec<_>) =
            others.iter().partition(|it| is_of_models(it));
        let steady = models.iter().filter(|it| STEADY_HOSTS.contains(&&*it.name));
        Ok(Sample {
            hours,
            server_bytes: own.pss(),
            models_bytes: pss(&models),
            steady_hosts_bytes: steady.map(|it| private_dirty(it.pid)).sum(),
            private_servers_bytes: pss(&private_servers),
            processes: processes.len(),
            descriptors: own.descriptors(),
            threads: own.threads(),
            series: series(metrics),
            log_lines: self.log.count()?,
            evictions,
            failed,
        })
    }
}

fn is_of_models(process: &Process) -> bool {
    process.name == "hr-zygote" || process.name.starts_with("hr:")
}

fn pss(processes: &[&Process]) -> u64 {
    processes.iter().map(|it| it.pss()).sum()
}

/// Counts the lines of a file that grows. It reads each byte once, and keeps none.
struct Lines {
    file: File,
    count: u64,
}

impl Lines {
    fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { file, count: 0 })
    }

    /// The lines so far.
    fn count(&mut self) -> io::Result<u64> {
        let mut piece = [0; 16 << 10];
        loop {
            let length = self.file.read(&mut piece)?;
            if length == 0 {
                return Ok(self.count);
            }
            let ends = piece[..length].iter().filter(|byte| **byte == b'\n');
            self.count += ends.count() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_counted_while_the_file_grows() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut lines = Lines::of(file.path()).unwrap();
        assert_eq!(lines.count().unwrap(), 0);
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(lines.count().unwrap(), 2);
        assert_eq!(lines.count().unwrap(), 2);
        file.write_all(b"ee\n").unwrap();
        // Longer than a piece.
        file.write_all("a line\n".repeat(10_000).as_bytes())
            .unwrap();
        assert_eq!(lines.count().unwrap(), 10_003);
    }
}
