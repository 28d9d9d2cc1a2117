//! `headroom status`: the first ten seconds of an operator. Is the server well, how full is its budget, what
//! is loaded, what is failing.

mod form;
mod view;

use std::io::{self, IsTerminal};
use std::time::Duration;

use headroom_actors::kernel::Timestamp;
use rustix::termios::tcgetwinsize;
use serde::Serialize;
use tokio::time::sleep;

use super::Failure;
use super::answer::Document;
use super::client::{Client, ServerArgs};
use super::output::{Style, lines, write};
use form::Status;

/// The path of the overview.
const PATH: &str = "/api/status";

/// Moves the cursor to the first line, clears the screen from there, and lets long lines end at its edge.
const CLEAR: &str = "\u{1b}[H\u{1b}[J\u{1b}[?7l";

/// Lets long lines go on in the next one again.
const WRAP: &str = "\u{1b}[?7h";

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
    /// Print the server's JSON; with --watch one line for each look, and one with `error` when looks begin to
    /// fail or fail for another reason
    #[arg(long)]
    json: bool,
}

pub(super) async fn status(args: &StatusArgs) -> Result<(), Failure> {
    // A watch writes refusals in a form of its own.
    let problems = args.json && !args.watch;
    let client = Client::new(&args.server.url, args.server.bounds, problems)?;
    let mut view = View::new(args);
    if !args.watch {
        let status = look(&client).await?;
        view.show(&status)?;
        return match status.content.judged.is_failing() {
            true => Err(Failure::Incomplete("the server is failing".to_owned())),
            false => Ok(()),
        };
    }
    loop {
        let is_read = match look(&client).await {
            Ok(status) => view.show(&status)?,
            // A server that restarts is away for a moment.
            Err(failure) => view.show_failure(&failure)?,
        };
        if !is_read {
            return Ok(());
        }
        sleep(args.interval.max(Duration::from_millis(100))).await;
    }
}

async fn look(client: &Client) -> Result<Document<Status>, Failure> {
    client.get(PATH).await?.read()
}

/// How answers are shown. What writes them returns whether they still have a reader.
struct View {
    url: String,
    style: Style,
    /// What is written before each look but for the first.
    before: &'static str,
    json: bool,
    /// Why the last look failed, if it did and that was written as JSON.
    failure: Option<String>,
}

/// A look that failed, as JSON.
#[derive(Serialize)]
struct FailedLook<'a> {
    at: Timestamp,
    error: &'a str,
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
            failure: None,
        }
    }

    fn show(&mut self, status: &Document<Status>) -> Result<bool, Failure> {
        self.failure = None;
        if self.json {
            return status.write();
        }
        let text = view::render(&status.content, &self.url, self.style);
        self.write(&text)
    }

    /// Writes a look. What comes first matters most, so on a screen the rest is cut off.
    fn write(&self, text: &str) -> Result<bool, Failure> {
        if self.before != CLEAR {
            return write(format!("{}{text}", self.before).as_bytes());
        }
        let rows = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
        write(format!("{CLEAR}{}{WRAP}", first_rows(text, rows)).as_bytes())
    }

    /// Shows why a look failed. As JSON, each reason is written once, and again after an answer.
    fn show_failure(&mut self, failure: &Failure) -> Result<bool, Failure> {
        let error = failure.to_string();
        if !self.json {
            return self.write(&format!("{}\n", lines(&error)));
        }
        if self.failure.as_ref() == Some(&error) {
            return Ok(true);
        }
        let (at, text) = (Timestamp::now(), &*error);
        let line = serde_json::to_string(&FailedLook { at, error: text });
        let line = line.map_err(|error| Failure::Output(error.into()))?;
        self.failure = Some(error);
        write(format!("{line}\n").as_bytes())
    }
}

/// As many lines of `text` as fit into `rows` with the cursor below them; all of them if `rows` is 0, which
/// means unknown. Says how many are left out.
fn first_rows(text: &str, rows: usize) -> String {
    let count = text.lines().count();
    if rows == 0 || count < rows {
        return text.to_owned();
    }
    let shown = rows.saturating_sub(2);
    let mut first: String = text.split_inclusive('\n').take(shown).collect();
    first.push_str(&format!(
        "… {} more\n",
        super::output::count(count - shown, "line", "lines")
    ));
    first
}

#[cfg(test)]
mod tests {
    use super::first_rows;

    #[test]
    fn a_look_is_cut_to_the_screen() {
        let text = "1\n2\n3\n4\n";
        for rows in [0, 5, 50] {
            assert_eq!(first_rows(text, rows), text);
        }
        assert_eq!(first_rows(text, 4), "1\n2\n… 2 lines more\n");
        assert_eq!(first_rows(text, 1), "… 4 lines more\n");
    }
}
