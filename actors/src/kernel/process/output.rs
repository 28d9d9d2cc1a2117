//! The output of processes: every line goes to the log, and the last ones are kept to explain an
//! unexpected end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::Notify;

/// Lines kept per process.
const LAST_LINES: usize = 20;

/// The longest line in bytes; the rest of a longer one is dropped.
const LINE_MAX: u64 = 8 * 1024;

/// The last lines of a process's output. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct LastLines {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl LastLines {
    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// A copy of them, oldest first.
    pub fn to_vec(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

/// Reads one output of a process into the log.
#[derive(Clone)]
pub(super) struct Capture {
    pub(super) name: String,
    pub(super) pid: i32,
    pub(super) last_lines: LastLines,
    /// The text of the line that says that the process is ready, and who is notified of it.
    pub(super) ready_line: Option<(String, Arc<Notify>)>,
}

impl Capture {
    pub(super) async fn run(self, output: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(output);
        while let Some(line) = next_line(&mut reader).await {
            tracing::info!(target: "headroom::process", process = self.name, pid = self.pid, "{line}");
            if let Some((text, ready)) = &self.ready_line
                && line.contains(text.as_str())
            {
                ready.notify_one();
            }
            self.last_lines.push(line);
        }
    }
}

/// Writes the lines of `output` to the log, as lines of the process `name`, until it closes. For a
/// forked process, whose output comes through a pipe that the server made.
pub async fn log_lines(
    name: String,
    pid: i32,
    last_lines: LastLines,
    output: impl AsyncRead + Unpin,
) {
    let capture = Capture {
        name,
        pid,
        last_lines,
        ready_line: None,
    };
    capture.run(output).await;
}

/// The next line without its end, cut at [`LINE_MAX`] bytes; `None` at the end of the output.
async fn next_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    let read = (&mut *reader)
        .take(LINE_MAX)
        .read_until(b'\n', &mut line)
        .await
        .ok()?;
    if read == 0 {
        return None;
    }
    if !line.ends_with(b"\n") && line.len() as u64 == LINE_MAX {
        skip_line(reader).await;
    }
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}

async fn skip_line(reader: &mut (impl AsyncBufReadExt + Unpin)) {
    while let Ok(buffer) = reader.fill_buf().await {
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = buffer.len();
        match end {
            Some(index) => return reader.consume(index + 1),
            None if length == 0 => return,
            None => reader.consume(length),
        }
    }
}
