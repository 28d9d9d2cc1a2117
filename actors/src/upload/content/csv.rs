//! CSV after RFC 4180, byte by byte, in constant memory: every record has as many columns as the first.
//!
//! The separator is one of comma, semicolon, tab and bar: the one that the first record has most of. Beyond the RFC,
//! as common readers do: a quote within an unquoted field is a part of it, a carriage return alone ends a record, and
//! blank lines may end the file. Blank lines between records are refused, unless there is one column: readers differ
//! in whether they are records.

use super::{
    fault::{Limits, Problem},
    text::Stop,
};

const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RecordStart,
    /// After a carriage return: a line feed belongs to it.
    AfterReturn,
    FieldStart,
    Plain,
    Quoted,
    /// After a quote in a quoted field: its end, or the first of two.
    Quote,
}

/// A table on its way in.
#[derive(Debug)]
pub(super) struct Csv {
    state: State,
    columns_max: u64,
    field_max: u64,
    /// Columns of the first record once it has ended.
    columns: Option<u64>,
    /// Separators of this record, by candidate. Of later records, only the first place counts.
    separators: [u64; SEPARATORS.len()],
    /// Bytes of this field.
    field: u64,
    records: u64,
    blank: bool,
    /// Where the last quoted field began.
    quote_at: u64,
    /// Bytes that may end a run of plain ones.
    stops: [bool; 256],
}

impl Csv {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut csv = Self {
            state: State::RecordStart,
            columns_max: limits.csv_columns_max,
            field_max: limits.csv_field_max,
            columns: None,
            separators: [0; 4],
            field: 0,
            records: 0,
            blank: false,
            quote_at: 0,
            stops: [false; 256],
        };
        csv.stop_at(&SEPARATORS);
        csv
    }

    fn stop_at(&mut self, separators: &[u8]) {
        self.stops = [false; 256];
        for byte in separators.iter().chain(b"\r\n") {
            self.stops[usize::from(*byte)] = true;
        }
    }

    /// Takes bytes that start at a place of the file.
    pub(super) fn feed(&mut self, bytes: &[u8], offset: u64) -> Result<(), Stop> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let run = match self.state {
                State::Plain => rest.iter().position(|byte| self.stops[usize::from(*byte)]),
                State::Quoted => rest.iter().position(|byte| *byte == b'"'),
                _ => Some(0),
            };
            let run = run.unwrap_or(rest.len());
            self.lengthen(run as u64)
                .map_err(|(over, problem)| (at + over, problem))?;
            at += run;
            let Some(byte) = bytes.get(at) else {
                break;
            };
            self.step(*byte, offset + at as u64)
                .map_err(|problem| (at, problem))?;
            at += 1;
        }
        Ok(())
    }

    /// Counts bytes of the field, or says which of them is one too many.
    #[inline]
    fn lengthen(&mut self, run: u64) -> Result<(), Stop> {
        let left = self.field_max - self.field;
        if run > left {
            return Err((left as usize, Problem::FieldMax(self.field_max)));
        }
        self.field += run;
        Ok(())
    }

    #[inline(always)]
    fn step(&mut self, byte: u8, offset: u64) -> Result<(), Problem> {
        match (self.state, byte) {
            (State::AfterReturn, b'\n') => {
                self.state = State::RecordStart;
                return Ok(());
            }
            (State::RecordStart | State::AfterReturn, b'\r' | b'\n') => {
                self.blank = true;
                self.line_end(byte);
                return Ok(());
            }
            (State::RecordStart | State::AfterReturn, _) => {
                if self.blank && self.columns.is_some_and(|columns| columns > 1) {
                    return Err(Problem::Is("a blank line stands before this record"));
                }
                self.state = State::FieldStart;
            }
            _ => {}
        }
        match (self.state, byte) {
            (State::Quoted, b'"') => self.state = State::Quote,
            (State::Quote, b'"') => {
                self.state = State::Quoted;
                self.lengthen(1).map_err(|(_, problem)| problem)?;
            }
            (State::FieldStart, b'"') => {
                self.state = State::Quoted;
                self.quote_at = offset;
            }
            (_, b'\r' | b'\n') => {
                self.record_end()?;
                self.line_end(byte);
            }
            _ if self.separates(byte)? => {
                self.state = State::FieldStart;
                self.field = 0;
            }
            (State::Quote, _) => {
                return Err(Problem::Is("a separator should follow the closing quote"));
            }
            _ => {
                self.state = State::Plain;
                self.lengthen(1).map_err(|(_, problem)| problem)?;
            }
        }
        Ok(())
    }

    /// Whether the byte separates fields. In the first record each candidate does.
    #[inline]
    fn separates(&mut self, byte: u8) -> Result<bool, Problem> {
        if !self.stops[usize::from(byte)] {
            return Ok(false);
        }
        let candidate = match self.columns {
            None => SEPARATORS.iter().position(|separator| *separator == byte),
            Some(_) => Some(0),
        };
        let count = &mut self.separators[candidate.unwrap_or_default()];
        *count += 1;
        if *count >= self.columns_max {
            return Err(Problem::ColumnsMax(self.columns_max));
        }
        Ok(true)
    }

    fn line_end(&mut self, byte: u8) {
        self.state = if byte == b'\r' {
            State::AfterReturn
        } else {
            State::RecordStart
        };
    }

    fn record_end(&mut self) -> Result<(), Problem> {
        match self.columns {
            None => {
                // The first of those that the record has most of.
                let most = self.separators.into_iter().max().unwrap_or_default();
                let chosen = self.separators.iter().position(|count| *count == most);
                if self.blank && most > 0 {
                    return Err(Problem::Is("a blank line stands before this record"));
                }
                self.columns = Some(most + 1);
                self.stop_at(match chosen {
                    Some(chosen) if most > 0 => &SEPARATORS[chosen..=chosen],
                    _ => b",",
                });
            }
            Some(expected) => {
                let found = self.separators[0] + 1;
                if found != expected {
                    return Err(Problem::Columns { found, expected });
                }
            }
        }
        self.records += 1;
        self.separators = [0; 4];
        self.field = 0;
        Ok(())
    }

    /// The columns and records, or what is wrong with an end here.
    pub(super) fn finish(&mut self) -> Result<(u64, u64), Problem> {
        match self.state {
            State::Quoted => return Err(Problem::Unclosed(self.quote_at)),
            State::RecordStart | State::AfterReturn => {}
            State::FieldStart | State::Plain | State::Quote => self.record_end()?,
        }
        Ok((self.columns.unwrap_or_default(), self.records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(limits: &Limits, text: &str) -> Result<(u64, u64), Problem> {
        let whole = feed(limits, text, text.len().max(1));
        for size in [1, 2, 3, 7] {
            assert_eq!(
                feed(limits, text, size),
                whole,
                "{text:?} in pieces of {size}"
            );
        }
        whole.map_err(|(_, problem)| problem)
    }

    fn feed(limits: &Limits, text: &str, size: usize) -> Result<(u64, u64), (u64, Problem)> {
        let mut csv = Csv::new(limits);
        let mut offset = 0;
        for piece in text.as_bytes().chunks(size) {
            let fed = csv.feed(piece, offset);
            fed.map_err(|(at, problem)| (offset + at as u64, problem))?;
            offset += piece.len() as u64;
        }
        csv.finish().map_err(|problem| (offset, problem))
    }

    fn check(text: &str) -> Result<(u64, u64), Problem> {
        check_with(&Limits::default(), text)
    }

    #[test]
    fn steady_tables_are_counted() {
        for (text, columns, records) in [
            ("", 0, 0),
            ("\n\r\n", 0, 0),
            ("a", 1, 1),
            ("a\nb\n\nc", 1, 3),
            ("a,b\n1,2\n", 2, 2),
            ("a,b\r\n1,2\r\n\r\n", 2, 2),
            ("a,b\r1,2\r", 2, 2),
            ("a,b\n1,2", 2, 2),
            ("a,b\n1,2\n\n\n", 2, 2),
            ("a;b;c,d\n1;2,5;3\n", 3, 2),
            ("a\tb\n1\t2\n", 2, 2),
            ("a|b|c\n1|2|3", 3, 2),
            (",\n,", 2, 2),
            ("\"a,b\",c\n1,2", 2, 2),
            ("\"a;b;c\",d\n1,2", 2, 2),
            ("a,b\n\"x\r\ny\",\"say \"\"hi\"\"\"\n", 2, 2),
            ("a,b\n5\" disk,\"\"\n", 2, 2),
            ("a,b\n1;2;3,4\n", 2, 2),
            ("\"a\"\n\"\"", 1, 2),
            ("a,b\n\"\"\"hi, you\"\", she said\",2\n", 2, 2),
            ("\"\"\"hi, you\"\"\",b\n1,2\n", 2, 2),
        ] {
            assert_eq!(check(text), Ok((columns, records)), "{text:?}");
        }
    }

    #[test]
    fn unsteady_tables_are_refused() {
        let columns = |found, expected| Problem::Columns { found, expected };
        let blank = Problem::Is("a blank line stands before this record");
        for (text, problem) in [
            ("a,b\n1\n", columns(1, 2)),
            ("a,b\n1,2,3", columns(3, 2)),
            ("a\n1,2\n", columns(2, 1)),
            ("a;b\n1,2\n", columns(1, 2)),
            ("a,b\n\"1,2\"\n", columns(1, 2)),
            ("a,b\n\n1,2\n", blank),
            ("\na,b\n", blank),
            (
                "a,b\n\"1\"x,2\n",
                Problem::Is("a separator should follow the closing quote"),
            ),
            ("a,b\n1,\"2\n3,4\n", Problem::Unclosed(6)),
        ] {
            assert_eq!(check(text), Err(problem), "{text:?}");
        }
    }

    #[test]
    fn columns_and_fields_are_bounded() {
        let limits = Limits {
            csv_columns_max: 3,
            csv_field_max: 4,
            ..Limits::default()
        };
        assert_eq!(check_with(&limits, "a,b,c\n1234,\"12\"\"4\",3"), Ok((3, 2)));
        assert_eq!(check_with(&limits, "a,b,c,d"), Err(Problem::ColumnsMax(3)));
        assert_eq!(
            check_with(&limits, "a,b\n1,2,3,4"),
            Err(Problem::ColumnsMax(3))
        );
        assert_eq!(check_with(&limits, "a\n12345"), Err(Problem::FieldMax(4)));
        assert_eq!(
            check_with(&limits, "\"a\nbcd\"\n"),
            Err(Problem::FieldMax(4))
        );
        assert_eq!(
            check_with(&limits, "\"12\"\"45\"\n"),
            Err(Problem::FieldMax(4))
        );
    }
}
