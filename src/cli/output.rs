//! What commands write for people: tables, units and colours.
//!
//! Colours are used only on a terminal, and not if `NO_COLOR` is set (<https://no-color.org>). Text of a
//! server or a file has no control characters, so that it cannot control the reader's terminal.

use std::env;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use bytesize::ByteSize;

use super::Failure;

/// What a text means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// A title.
    Strong,
    Good,
    Warning,
    Bad,
}

/// How texts are coloured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
}

impl Style {
    /// The style of standard output.
    pub(super) fn of_stdout() -> Self {
        let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colours: io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb,
        }
    }

    /// `text` in the colour of `tone`.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Plain => return text.to_owned(),
        };
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// A text in a table.
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn new(tone: Tone, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { text, tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(Tone::Plain, text)
    }
}

/// Where the texts of a column stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    /// For numbers with units.
    Right,
}

/// Rows of texts with aligned columns.
pub(super) struct Table<const N: usize> {
    columns: [Align; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with a row of titles.
    pub(super) fn new(columns: [(&str, Align); N]) -> Self {
        let titles = columns.map(|(title, _)| Cell::new(Tone::Strong, title));
        Self {
            columns: columns.map(|(_, align)| align),
            rows: vec![titles],
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, mut cells: [Cell; N]) {
        for cell in &mut cells {
            cell.text = one_line(&cell.text);
        }
        self.rows.push(cells);
    }

    /// Whether it has no row but the titles.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The lines of the table, each after `indent`.
    pub(super) fn render(&self, style: Style, indent: &str) -> String {
        let length = |cell: &Cell| cell.text.chars().count();
        let width = |column: usize| self.rows.iter().map(|row| length(&row[column])).max();
        let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
        let mut lines = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (column, cell) in row.iter().enumerate() {
                let gap = " ".repeat(widths[column] - length(cell));
                let text = style.paint(cell.tone, &cell.text);
                match self.columns[column] {
                    Align::Right => line.extend([&*gap, &*text]),
                    Align::Left => line.extend([&*text, &*gap]),
                }
                line.push_str("  ");
            }
            lines.push_str(line.trim_end());
            lines.push('\n');
        }
        lines
    }
}

/// Writes `text` to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    write(text.as_bytes()).map(drop)
}

/// Writes `bytes` to standard output. `false` if its reader has left.
pub(super) fn write(bytes: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    has_reader(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Writes the body of an answer as it is, with the end of a line. `false` if its reader has left.
pub(super) fn write_body(body: &[u8]) -> Result<bool, Failure> {
    let end: &[u8] = if body.ends_with(b"\n") { b"" } else { b"\n" };
    write(&[body, end].concat())
}

/// Whether the reader of standard output is still there, after something was written. One that has left has
/// what it wanted: the command does the rest of its work, and its exit code says how that went.
pub(super) fn has_reader(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Output(error)),
    }
}

/// Writes the JSON of `value` to standard output.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| Failure::Output(error.into()))?;
    text.push('\n');
    print(&text)
}

/// `text` without control characters.
pub(super) fn one_line(text: &str) -> String {
    let plain = |c: char| match c {
        // Marks that change the direction of what follows.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(plain).collect()
}

/// The same for a text of several lines.
pub(super) fn lines(text: &str) -> String {
    text.lines().map(one_line).collect::<Vec<_>>().join("\n")
}

/// A number of bytes with its unit.
pub(super) fn bytes(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A count with its noun.
pub(super) fn count(number: usize, one: &str, several: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {several}"),
    }
}

/// A share in percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A time in its two greatest units.
pub(super) fn seconds(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    match seconds {
        s if s < 0.001 => return format!("{:.0} µs", s * 1e6),
        s if s < 0.01 => return format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => return format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => return format!("{s:.1} s"),
        _ => {}
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite and not negative; a huge one is shown as the greatest number"
    )]
    let whole = seconds.round() as u64;
    let mut text = String::new();
    let mut left = whole;
    for (unit, size) in [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)] {
        let number = left / size;
        left %= size;
        if !text.is_empty() {
            if number > 0 {
                write!(text, " {number} {unit}").ok();
            }
            break;
        }
        if number > 0 {
            write!(text, "{number} {unit}").ok();
        }
    }
    text
}

/// The seconds from one moment to another, both in RFC 3339. `None` if they are none.
pub(super) fn between(then: &str, now: &str) -> Option<f64> {
    let parse = |text| humantime::parse_rfc3339(text).ok();
    let (then, now) = (parse(then)?, parse(now)?);
    Some(now.duration_since(then).unwrap_or_default().as_secs_f64())
}

/// What the phase of a resource means.
pub(super) fn phase_tone(phase: &str) -> Tone {
    match phase {
        "ready" => Tone::Good,
        "loading" | "draining" => Tone::Warning,
        "failed" => Tone::Bad,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_at_most_two_units() {
        for (number, text) in [
            (0.000_04, "40 µs"),
            (0.0012, "1.2 ms"),
            (0.25, "250 ms"),
            (9.94, "9.9 s"),
            (59.6, "1 min"),
            (61.0, "1 min 1 s"),
            (3600.0, "1 h"),
            (3605.0, "1 h"),
            (90_061.0, "1 d 1 h"),
            (f64::NAN, "unknown"),
            (-1.0, "unknown"),
        ] {
            assert_eq!(seconds(number), text);
        }
    }

    #[test]
    fn columns_are_aligned_with_and_without_colours() {
        let mut table = Table::new([("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row([Cell::new(Tone::Good, "a\u{1b}b"), "10 B".into()]);
        table.row(["longer".into(), "3.0 MiB".into()]);
        let plain = Style { colours: false };
        assert_eq!(
            table.render(plain, ""),
            "NAME       SIZE\na b        10 B\nlonger  3.0 MiB\n"
        );
        let coloured = table.render(Style { colours: true }, "  ");
        assert!(coloured.contains("  \u{1b}[32ma b\u{1b}[0m        10 B\n"));
    }
}
