//! Writes standard error from a thread of its own, so that logging never blocks.
//!
//! The reader of standard error may stop reading, and a write to a full pipe blocks. Therefore lines go
//! into a bounded queue. A line that does not fit is dropped and counted. One thread writes the queued
//! lines. At the end of the process the queue is flushed within a bounded time.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The most bytes in the queue. The writer may have taken as many more.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// The capacity that an empty buffer keeps.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// How long the flush at the end of the process may take.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The queue of this process, or the error of its creation.
static STDERR: LazyLock<io::Result<Arc<LineQueue>>> = LazyLock::new(|| {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    LineQueue::start(File::from(stderr))
});

/// The queue in front of standard error. The first call starts its thread.
///
/// # Errors
/// Standard error cannot be duplicated, or the thread cannot be started.
pub(super) fn queue() -> io::Result<Arc<LineQueue>> {
    let queue = STDERR.as_ref().map(Arc::clone);
    queue.map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// Writes a line to standard error through the queue. Never blocks.
pub fn write_line(line: &str) {
    let line = format!("{line}\n");
    match &*STDERR {
        Ok(queue) => queue.push(line.as_bytes()),
        // Without the thread, write directly.
        Err(_) => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Lines dropped since the process started.
pub fn dropped_lines() -> u64 {
    STDERR.as_ref().map_or(0, |queue| queue.dropped())
}

/// Flushes standard error when it is dropped; `main` holds it. The flush takes at most one second, so a
/// reader that stopped reading cannot delay the end of the process.
#[derive(Debug, Default)]
pub struct FlushOnDrop;

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        flush(FLUSH_WITHIN);
    }
}

/// Waits until all queued lines are written, at most `within`.
pub(crate) fn flush(within: Duration) {
    if let Ok(queue) = &*STDERR {
        queue.flush(within);
    }
}

/// A bounded queue of lines, which a thread writes.
#[derive(Debug, Default)]
pub(super) struct LineQueue {
    queued: Mutex<Queued>,
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Queued {
    lines: Vec<u8>,
    /// Whether the thread is writing lines that it has taken.
    writing: bool,
}

impl LineQueue {
    /// Starts the thread that writes to `out`. It runs until the process ends.
    fn start(out: File) -> io::Result<Arc<Self>> {
        let queue = Arc::<Self>::default();
        let writer = Arc::clone(&queue);
        thread::Builder::new()
            .name("stderr".into())
            .spawn(move || writer.write_to(out))?;
        Ok(queue)
    }

    /// Queues whole lines, or drops and counts them. Never blocks.
    fn push(&self, lines: &[u8]) {
        let mut queued = self.lock();
        if queued.lines.len() + lines.len() > QUEUED_BYTES_MAX {
            drop(queued);
            self.drop_lines(lines);
            return;
        }
        queued.lines.extend_from_slice(lines);
        drop(queued);
        self.changed.notify_all();
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits until all lines are written, at most `within`. Returns whether they are.
    fn flush(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        let mut queued = self.lock();
        while queued.writing || !queued.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(queued, left);
            (queued, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_lines(&self, lines: &[u8]) {
        let count = lines.iter().filter(|byte| **byte == b'\n').count();
        self.dropped.fetch_add(count as u64, Relaxed);
    }

    fn write_to(&self, mut out: File) {
        let mut reported = 0;
        let mut batch = Vec::new();
        loop {
            self.take(&mut batch);
            if write_all(&mut out, &batch).is_err() {
                // The reader is gone.
                self.drop_lines(&batch);
            } else {
                reported = self.report_dropped(reported);
            }
            batch.clear();
            batch.shrink_to(KEPT_BYTES_MAX);
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits for lines, and moves all of them into the empty `batch`.
    fn take(&self, batch: &mut Vec<u8>) {
        let mut queued = self.lock();
        while queued.lines.is_empty() {
            let waited = self.changed.wait(queued);
            queued = waited.unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut queued.lines, batch);
        queued.writing = true;
    }

    /// Logs the number of lines dropped since `reported`, and returns the new total.
    fn report_dropped(&self, reported: u64) -> u64 {
        let dropped = self.dropped.load(Relaxed);
        if dropped > reported {
            tracing::warn!(
                lines = dropped - reported,
                "log lines were dropped: standard error was not read fast enough"
            );
        }
        dropped
    }
}

/// Writes all of `bytes`, also if a process that shares standard error has made it non-blocking.
fn write_all(out: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut waits = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
                poll(&mut waits, PollTimeout::NONE).ok();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The log formatter writes each event at once.
impl Write for &LineQueue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read;

    use super::*;

    const SOON: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn lines_arrive_in_order_and_a_flush_waits_for_them() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = LineQueue::start(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        for n in 0..100 {
            queue.push(format!("line {n}\n").as_bytes());
        }
        assert!(queue.flush(LONG));
        let mut read = [0; 14];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"line 0\nline 1\n");
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn without_a_reader_nobody_blocks_and_what_does_not_fit_is_counted() {
        let (reader, writer) = io::pipe().unwrap();
        let queue = LineQueue::start(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        let line = vec![b'x'; 1023];
        let line = [&line[..], b"\n"].concat();
        let began = Instant::now();
        for _ in 0..4096 {
            queue.push(&line);
        }
        // 4 MiB were written: the queue and the batch hold at most half.
        assert!(queue.dropped() >= 2000, "{}", queue.dropped());
        assert!(!queue.flush(SOON));
        assert!(began.elapsed() < LONG);
        // After the reader is gone, unwritten lines are dropped and the queue is empty.
        drop(reader);
        assert!(queue.flush(LONG));
        queue.push(b"nobody reads this\n");
        assert!(queue.flush(LONG));
        assert!(queue.dropped() > 4000, "{}", queue.dropped());
    }
}
