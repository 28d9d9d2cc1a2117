//! The output of processes: every line goes to the log, and the last ones are kept to explain an
//! unexpected end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::Notify;

/// Lines kept per process.
const LAST_LINES: usize = 20;

/// The longest line in bytes; the rest of a longer one is dropped.
const LINE_MAX: usize = 8 * 1024;

/// Reads one output of a process into the log.
#[derive(Debug, Clone)]
pub(super) struct Capture {
    pub(super) name: String,
    pub(super) pid: i32,
    /// The last lines of all outputs of the process. Clones share them.
    pub(super) last_lines: Arc<Mutex<VecDeque<String>>>,
    /// The text of the line that says that the process is ready, and who is notified of it.
    pub(super) ready_line: Option<(String, Arc<Notify>)>,
}

impl Capture {
    pub(super) fn last_lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.last_lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn run(self, output: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(output);
        while let Some(line) = next_line(&mut reader).await {
            tracing::info!(target: "headroom::process", process = self.name, pid = self.pid, "{line}");
            if let Some((text, ready)) = &self.ready_line
                && line.contains(text.as_str())
            {
                ready.notify_one();
            }
            let mut lines = self.last_lines();
            if lines.len() == LAST_LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    }
}

/// Writes the lines of `output` to the log, as lines of the process `name`, until it closes. For a
/// forked process, whose output comes through a pipe that the server made.
pub async fn log_lines(name: String, pid: i32, output: impl AsyncRead + Unpin) {
    let capture = Capture {
        name,
        pid,
        last_lines: Arc::default(),
        ready_line: None,
    };
    capture.run(output).await;
}

/// The next line without its end, cut at [`LINE_MAX`] bytes; `None` at the end of the output.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let buffer = reader.fill_buf().await.ok()?;
        if buffer.is_empty() && line.is_empty() {
            return None;
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        let space = LINE_MAX - line.len();
        line.extend_from_slice(&piece[..piece.len().min(space)]);
        let is_last = end.is_some() || buffer.is_empty();
        let read = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(read);
        if is_last {
            return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }
}
