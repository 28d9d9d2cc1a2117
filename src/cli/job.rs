//! Follows a job of a server to its end. Progress is shown on a terminal; Ctrl-C cancels the job.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hyper::Method;
use serde::Deserialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::Failure;
use super::client::{Answer, Client, encoded};
use super::output::{one_line, print, seconds};

/// How often the server is asked for the state of the job.
const POLL_INTERVAL: Duration = Duration::from_millis(150);

/// The most characters of the line of progress. A longer one would take two lines, and only the second
/// would be written over.
const WIDTH: usize = 78;

/// What is read of a job.
#[derive(Debug, Deserialize)]
pub(super) struct Job<R = serde_json::Value> {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) error: Option<String>,
    pub(super) result: Option<R>,
    progress: Progress,
}

#[derive(Debug, Deserialize)]
struct Progress {
    done: u64,
    total: Option<u64>,
    current_step: Option<String>,
}

impl<R> Job<R> {
    pub(super) fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// Success, or why the job has not succeeded.
    pub(super) fn outcome(&self) -> Result<(), Failure> {
        match &*self.state {
            "succeeded" => Ok(()),
            "cancelled" => Err(Failure::Interrupted),
            state => {
                let error = self.error.as_deref().unwrap_or("the server gave no reason");
                let state = state.replace('_', " ");
                Err(Failure::Incomplete(format!("the job has {state}: {error}")))
            }
        }
    }
}

/// Writes the id of the job in `started`, or its JSON.
pub(super) fn print_id(started: &Answer, json: bool) -> Result<(), Failure> {
    if json {
        return started.print();
    }
    let job: Job = started.read()?;
    print(&format!("{}\n", one_line(&job.id)))
}

/// Follows the job in `started` to its end, and returns its last state.
pub(super) async fn follow(client: &Client, started: Answer) -> Result<Answer, Failure> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    let line = ProgressLine::new();
    let mut answer = started;
    let mut is_cancelled = false;
    loop {
        let job: Job = answer.read()?;
        if !job.is_running() {
            return Ok(answer);
        }
        line.show(&job.progress, is_cancelled);
        let path = format!("/api/jobs/{}", encoded(&job.id));
        let poll = async {
            sleep(POLL_INTERVAL).await;
            client.get(&path).await
        };
        tokio::select! {
            polled = poll => answer = polled?,
            () = interrupt(&mut interrupts) => {
                if is_cancelled {
                    return Err(Failure::Interrupted);
                }
                is_cancelled = true;
                let cancel = client.send(Method::DELETE, &path, None, Duration::ZERO);
                tokio::select! {
                    cancelled = cancel => answer = cancelled?,
                    () = interrupt(&mut interrupts) => return Err(Failure::Interrupted),
                }
            }
        }
    }
}

async fn interrupt(signals: &mut Signal) {
    // `None` means that no further signal can come.
    if signals.recv().await.is_none() {
        std::future::pending().await
    }
}

/// One line of standard error that is written again and again, if that is a terminal.
struct ProgressLine {
    is_terminal: bool,
    began: Instant,
}

impl ProgressLine {
    fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            began: Instant::now(),
        }
    }

    fn show(&self, progress: &Progress, is_cancelled: bool) {
        if !self.is_terminal {
            return;
        }
        let done = match progress.total {
            Some(total) => format!("{}/{total}", progress.done),
            None => progress.done.to_string(),
        };
        let step = match &progress.current_step {
            _ if is_cancelled => "cancelling; Ctrl-C again to stop waiting",
            Some(step) => step,
            None => "",
        };
        let took = seconds(self.began.elapsed().as_secs_f64());
        let line = one_line(&format!("{done}  {took}  {step}"));
        let line: String = line.chars().take(WIDTH).collect();
        self.write(&format!("\r\u{1b}[K{line}"));
    }

    fn write(&self, text: &str) {
        let mut terminal = io::stderr().lock();
        // Progress is no result: a terminal that is gone does not end the command.
        terminal.write_all(text.as_bytes()).ok();
        terminal.flush().ok();
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.is_terminal {
            self.write("\r\u{1b}[K");
        }
    }
}
