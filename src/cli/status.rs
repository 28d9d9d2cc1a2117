//! `headroom status`: the first ten seconds of an operator. Is the server well, how full is its budget, what
//! is loaded, what is failing.

mod form;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::time::sleep;

use super::Failure;
use super::client::{Client, ServerArgs};
use super::output::{Style, lines, print};
use form::Status;

/// The path of the overview.
const PATH: &str = "/api/status";

/// Moves the cursor to the first line, and clears the screen from there.
const CLEAR: &str = "\u{1b}[H\u{1b}[J";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    headroom status\n  \
    headroom status --watch --url http://10.0.0.5:8080\n  \
    headroom status --json | jq -r .verdict\n\n\
    The exit code is 0 if the server is well or degraded, 1 if it is failing, 69 if it does not answer.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Show it again and again, until Ctrl-C; the server may restart meanwhile
    #[arg(long, short)]
    watch: bool,
    /// The time between two looks, with --watch
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1s")]
    interval: Duration,
    /// Print the server's JSON; with --watch one line for each look
    #[arg(long)]
    json: bool,
}

pub(super) async fn status(args: &StatusArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server.url, args.server.bounds, args.json)?;
    let view = View::new(args);
    if !args.watch {
        let is_failing = view.show(look(&client, args.json).await?)?;
        return match is_failing {
            true => Err(Failure::Incomplete("the server is failing".to_owned())),
            false => Ok(()),
        };
    }
    loop {
        match look(&client, args.json).await {
            Ok(seen) => drop(view.show(seen)?),
            Err(failure @ Failure::Output(_)) => return Err(failure),
            // A server that restarts is away for a moment.
            Err(failure) => view.show_failure(failure)?,
        }
        sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

/// One answer of the server.
enum Seen {
    Json(super::client::Answer),
    Status(Box<Status>),
}

async fn look(client: &Client, json: bool) -> Result<Seen, Failure> {
    let answer = client.get(PATH).await?;
    match json {
        true => Ok(Seen::Json(answer)),
        false => Ok(Seen::Status(answer.read()?)),
    }
}

/// How answers are shown.
struct View {
    url: String,
    style: Style,
    /// What is written before each look but for the first.
    before: &'static str,
    json: bool,
}

impl View {
    fn new(args: &StatusArgs) -> Self {
        let before = match (args.watch && !args.json, io::stdout().is_terminal()) {
            (false, _) => "",
            (true, true) => CLEAR,
            (true, false) => "\n",
        };
        Self {
            url: args.server.url.to_string(),
            style: Style::of_stdout(),
            before,
            json: args.json,
        }
    }

    /// Whether the server is failing.
    fn show(&self, seen: Seen) -> Result<bool, Failure> {
        match seen {
            Seen::Json(answer) => {
                answer.print()?;
                Ok(answer.read::<form::Judged>()?.is_failing())
            }
            Seen::Status(status) => {
                let text = view::render(&status, &self.url, self.style);
                print(&format!("{}{text}", self.before))?;
                Ok(status.judged.is_failing())
            }
        }
    }

    fn show_failure(&self, failure: Failure) -> Result<(), Failure> {
        // In JSON, the server's own problem is printed already, and there is nothing else to print.
        match self.json {
            true => Ok(()),
            false => print(&format!("{}{}\n", self.before, lines(&failure.to_string()))),
        }
    }
}
