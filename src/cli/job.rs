//! Follows a job of a server to its end. Progress is shown on a terminal; Ctrl-C cancels the job. A job that
//! is not followed to its end is named, so that the user can look for it.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use hyper::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::Failure;
use super::answer::{Answer, Document};
use super::client::{Client, ClientError, encoded};
use super::output::{one_line, print, seconds};

/// How often the server is asked for the state of the job.
const POLL_INTERVAL: Duration = Duration::from_millis(150);

/// How long one answer about the job may take. It comes from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The pause after a request about the job that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The most characters of the line of progress. A longer one would take two lines, and only the second
/// would be written over.
const WIDTH: usize = 78;

/// What is read of a job.
#[derive(Debug, Deserialize)]
pub(super) struct Job {
    id: String,
    state: String,
    error: Option<String>,
    #[serde(default)]
    result: Value,
    progress: Progress,
}

#[derive(Debug, Deserialize)]
struct Progress {
    done: u64,
    total: Option<u64>,
    current_step: Option<String>,
}

/// A job that has ended.
pub(super) struct Ended<R> {
    pub(super) job: Document<Job>,
    /// What the job was for.
    pub(super) result: Option<R>,
    /// Whether this command has cancelled it.
    is_interrupted: bool,
}

impl<R> Ended<R> {
    /// Success, or why the job has not succeeded.
    pub(super) fn outcome(&self) -> Result<(), Failure> {
        let Job {
            id, state, error, ..
        } = &self.job.content;
        match &**state {
            "succeeded" => Ok(()),
            "cancelled" if self.is_interrupted => Err(Failure::Interrupted),
            "cancelled" => Err(Failure::Incomplete(format!(
                "the job {id} was cancelled by another client, or because the server stops"
            ))),
            state => {
                let error = error.as_deref().unwrap_or("the server gave no reason");
                let state = state.replace('_', " ");
                Err(Failure::Incomplete(format!("the job has {state}: {error}")))
            }
        }
    }
}

/// Writes the id of the job in `started`, or its JSON.
pub(super) fn print_id(started: &Answer, json: bool) -> Result<(), Failure> {
    let job: Document<Job> = started.read()?;
    match json {
        true => job.print(),
        false => print(&format!("{}\n", one_line(&job.content.id))),
    }
}

/// Follows the job in `started` to its end.
pub(super) async fn follow<R: DeserializeOwned>(
    client: &Client,
    started: &Answer,
) -> Result<Ended<R>, Failure> {
    let job: Document<Job> = started.read()?;
    let id = job.content.id.clone();
    let path = format!("/api/jobs/{}", encoded(&id));
    let url = client.url_of(&path);
    let ended = follow_to_end(client, &path, job).await;
    let (job, is_interrupted) = ended.map_err(|cause| Failure::JobLeft {
        id,
        url: url.clone(),
        cause: Box::new(cause),
    })?;
    // It is read only here: the job has ended, whatever the form of its result.
    let result = Option::deserialize(&job.content.result);
    Ok(Ended {
        result: result.map_err(|error| ClientError::other_form(url, &error))?,
        job,
        is_interrupted,
    })
}

/// The job at its end, and whether this command has cancelled it.
async fn follow_to_end(
    client: &Client,
    path: &str,
    mut job: Document<Job>,
) -> Result<(Document<Job>, bool), Failure> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    let line = ProgressLine::new();
    let mut is_interrupted = false;
    while job.content.state == "running" {
        line.show(&job.content.progress, is_interrupted);
        let poll = async {
            sleep(POLL_INTERVAL).await;
            ask(client, Method::GET, path).await
        };
        job = tokio::select! {
            polled = poll => polled?,
            () = interrupt(&mut interrupts) => {
                if is_interrupted {
                    return Err(Failure::Interrupted);
                }
                is_interrupted = true;
                tokio::select! {
                    cancelled = ask(client, Method::DELETE, path) => cancelled?,
                    () = interrupt(&mut interrupts) => return Err(Failure::Interrupted),
                }
            }
        };
    }
    Ok((job, is_interrupted))
}

/// Reads or cancels the job. The job runs on while the server is busy or cannot be reached, so that is tried
/// again, for as long as an answer may take (`--timeout`).
async fn ask(client: &Client, method: Method, path: &str) -> Result<Document<Job>, Failure> {
    let give_up_at = Instant::now() + client.within();
    loop {
        let within = ANSWER_WITHIN.min(client.within());
        let answer = client.send_within(method.clone(), path, None, within).await;
        match answer.and_then(|answer| answer.read()) {
            Err(failure) if failure.is_temporary() && Instant::now() < give_up_at => {
                sleep(RETRY_INTERVAL).await;
            }
            ended => return ended,
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
