//! What processes write: every line goes to our log, and the last ones are kept to explain an
//! unexpected end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::Notify;

/// Lines kept to explain an end.
const LAST_LINES: usize = 20;

/// The longest line that is kept whole; the rest of a longer one is dropped.
const LINE_MAX: u64 = 8 * 1024;

/// The last lines that a process wrote.
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
pub(super) struct Capture {
    name: String,
    pid: i32,
    last_lines: LastLines,
    awaited: Option<String>,
    line_seen: Arc<Notify>,
}

impl Capture {
    pub(super) fn new(
        name: &str,
        pid: i32,
        last_lines: &LastLines,
        awaited: Option<&String>,
        line_seen: &Arc<Notify>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            pid,
            last_lines: last_lines.clone(),
            awaited: awaited.cloned(),
            line_seen: Arc::clone(line_seen),
        }
    }

    pub(super) async fn run(self, output: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(output);
        while let Some(line) = next_line(&mut reader).await {
            tracing::info!(target: "headroom::process", process = self.name, pid = self.pid, "{line}");
            if self
                .awaited
                .as_ref()
                .is_some_and(|text| line.contains(text.as_str()))
            {
                self.line_seen.notify_one();
            }
            self.last_lines.push(line);
        }
    }
}

/// Writes what arrives on `output` to the log, as lines of the process `name`, until it closes.
/// For processes whose output comes through a pipe of our own, like a forked model host's.
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
        awaited: None,
        line_seen: Arc::new(Notify::new()),
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
