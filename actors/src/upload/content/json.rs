//! JSON after RFC 8259, byte by byte, in constant memory: a push-down automaton whose stack is one bit for each level.
//!
//! It accepts what `serde_json` accepts as a value (a test), with one exception: how large a number may be is a matter
//! of its reader. Names of an object may repeat, as the RFC allows. Escapes of lone surrogates are refused: they are no
//! Unicode text, and readers differ in what they make of them. A mark before UTF-8 is no part of what comes here: the
//! RFC lets readers skip it, and tools on Windows write it.

use super::{fault::Problem, text::Stop};

/// Levels that the stack has bits for.
const LEVELS: u32 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must follow.
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After `{`.
    NameOrEnd,
    /// After a comma in an object.
    Name,
    Colon,
    /// After a value.
    After,
    Text,
    Escape,
    /// In an escape of four digits, of which so many have been read.
    Hex(u8),
    /// After a high surrogate.
    LowEscape,
    LowHex,
    Minus,
    /// After a first digit 0.
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Literal,
}

/// A JSON value on its way in.
#[derive(Debug)]
pub(super) struct Json {
    state: State,
    depth: u32,
    depth_max: u32,
    /// Whether the level is an object, one bit each.
    objects: [u64; LEVELS as usize / 64],
    /// Whether the text is the name of a member.
    name: bool,
    /// The code unit of the escape.
    unit: u16,
    /// Whether the code unit must be a low surrogate.
    low: bool,
    /// What is left of `true`, `false`, `null`.
    literal: &'static [u8],
}

/// Bytes of a text that need no attention. UTF-8 has been checked before.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

impl Json {
    pub(super) fn new(depth_max: u32) -> Self {
        Self {
            state: State::Value,
            depth: 0,
            depth_max: depth_max.min(LEVELS),
            objects: [0; LEVELS as usize / 64],
            name: false,
            unit: 0,
            low: false,
            literal: b"",
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut at = 0;
        while at < bytes.len() {
            // Most bytes are in texts and numbers: runs of these stay in one loop each.
            match self.state {
                State::Text => {
                    at += run(&bytes[at..], |byte| PLAIN[usize::from(byte)]);
                    if bytes.get(at) == Some(&b'"') {
                        at += 1;
                        self.state = self.text_end();
                    }
                }
                State::Digits | State::Fraction | State::ExponentDigits => {
                    at += run(&bytes[at..], |byte| byte.is_ascii_digit());
                }
                State::Value | State::ValueOrEnd => {
                    if let Some(len) = number(&bytes[at..]) {
                        at += len;
                        self.state = State::After;
                    }
                }
                _ => {}
            }
            let Some(byte) = bytes.get(at) else {
                break;
            };
            if self.step(*byte).map_err(|problem| (at, problem))? {
                at += 1;
            }
        }
        Ok(())
    }

    /// Takes a byte, or says that it belongs to what follows.
    #[inline(always)]
    fn step(&mut self, byte: u8) -> Result<bool, Problem> {
        use State::*;

        let is = |problem| Err(Problem::Is(problem));
        let space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.state = match (self.state, byte) {
            (Value | ValueOrEnd | NameOrEnd | Name | Colon | After, _) if space => self.state,

            (Text, b'"') => self.text_end(),
            (Text, b'\\') => Escape,
            (Text, _) => return is("a control character in a text must be escaped"),
            (After, _) => return self.after(byte),
            (NameOrEnd | Name, b'"') => {
                self.name = true;
                Text
            }
            (NameOrEnd, b'}') => self.close(),
            (NameOrEnd | Name, _) => return is("the name of a member should stand here"),
            (Colon, b':') => Value,
            (Colon, _) => return is("a colon should stand here"),
            (ValueOrEnd, b']') => self.close(),
            (Value | ValueOrEnd, _) => self.value(byte)?,

            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Zero, b'0'..=b'9') => return is("a number must not start with 0"),
            (Digits, b'0'..=b'9') => Digits,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Minus | Point | Exponent | ExponentSign, _) => return is("a digit should stand here"),
            (Zero | Digits | Fraction | ExponentDigits, _) => {
                self.state = After;
                return Ok(false);
            }

            (Literal, _) => match self.literal {
                [next] if *next == byte => After,
                [next, rest @ ..] if *next == byte => {
                    self.literal = rest;
                    Literal
                }
                _ => return is("a value should be true, false or null"),
            },

            (Escape, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Text,
            (Escape, b'u') => {
                self.low = false;
                Hex(0)
            }
            (Escape, _) => return is("there is no such escape"),
            (LowEscape, b'\\') => LowHex,
            (LowHex, b'u') => {
                self.low = true;
                Hex(0)
            }
            (LowEscape | LowHex, _) => return is("a high surrogate has no low one"),
            (Hex(count), _) => self.hex(count, byte)?,
        };
        Ok(true)
    }

    fn value(&mut self, byte: u8) -> Result<State, Problem> {
        let mut literal = |rest| {
            self.literal = rest;
            State::Literal
        };
        Ok(match byte {
            b'"' => {
                self.name = false;
                State::Text
            }
            b'{' => self.open(true)?,
            b'[' => self.open(false)?,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => literal(b"rue"),
            b'f' => literal(b"alse"),
            b'n' => literal(b"ull"),
            _ => return Err(Problem::Is("a value should stand here")),
        })
    }

    fn after(&mut self, byte: u8) -> Result<bool, Problem> {
        if self.depth == 0 {
            return Err(Problem::Is("nothing may follow the value"));
        }
        let level = self.depth - 1;
        let object = self.objects[level as usize / 64] & (1 << (level % 64)) != 0;
        self.state = match (byte, object) {
            (b',', true) => State::Name,
            (b',', false) => State::Value,
            (b'}', true) | (b']', false) => self.close(),
            (_, true) => return Err(Problem::Is("a comma or } should stand here")),
            (_, false) => return Err(Problem::Is("a comma or ] should stand here")),
        };
        Ok(true)
    }

    fn open(&mut self, object: bool) -> Result<State, Problem> {
        if self.depth == self.depth_max {
            return Err(Problem::Depth(self.depth_max));
        }
        let (word, bit) = (self.depth as usize / 64, 1 << (self.depth % 64));
        if object {
            self.objects[word] |= bit;
        } else {
            self.objects[word] &= !bit;
        }
        self.depth += 1;
        Ok(if object {
            State::NameOrEnd
        } else {
            State::ValueOrEnd
        })
    }

    fn text_end(&self) -> State {
        if self.name {
            State::Colon
        } else {
            State::After
        }
    }

    fn close(&mut self) -> State {
        self.depth -= 1;
        State::After
    }

    fn hex(&mut self, count: u8, byte: u8) -> Result<State, Problem> {
        let Some(digit) = char::from(byte).to_digit(16) else {
            return Err(Problem::Is("a hexadecimal digit should stand here"));
        };
        self.unit = self.unit << 4 | digit as u16;
        if count < 3 {
            return Ok(State::Hex(count + 1));
        }
        match (self.unit, self.low) {
            (0xdc00..=0xdfff, true) => Ok(State::Text),
            (_, true) => Err(Problem::Is("a high surrogate has no low one")),
            (0xd800..=0xdbff, false) => Ok(State::LowEscape),
            (0xdc00..=0xdfff, false) => Err(Problem::Is("a low surrogate has no high one")),
            (_, false) => Ok(State::Text),
        }
    }

    /// What is wrong with an end here.
    pub(super) fn finish(&self) -> Result<(), Problem> {
        use State::{After, Digits, ExponentDigits, Fraction, Zero};

        match self.state {
            After | Zero | Digits | Fraction | ExponentDigits if self.depth == 0 => Ok(()),
            State::Value if self.depth == 0 => Err(Problem::Is("there is no value")),
            _ => Err(Problem::Is("the file ends inside of the value")),
        }
    }
}

/// How many of the first bytes have a property.
fn run(bytes: &[u8], wanted: impl Fn(u8) -> bool) -> usize {
    let end = bytes.iter().position(|byte| !wanted(*byte));
    end.unwrap_or(bytes.len())
}

/// The length of a number in its everyday form, with what follows it in sight. Others go byte by byte.
#[inline]
fn number(bytes: &[u8]) -> Option<usize> {
    let is_digit = |byte: u8| byte.is_ascii_digit();
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let digits = run(&bytes[sign..], is_digit);
    let mut len = sign + digits;
    if digits == 0 || (digits > 1 && bytes[sign] == b'0') {
        return None;
    }
    if bytes.get(len) == Some(&b'.') {
        let fraction = run(&bytes[len + 1..], is_digit);
        if fraction == 0 {
            return None;
        }
        len += 1 + fraction;
    }
    match bytes.get(len)? {
        b'.' | b'e' | b'E' => None,
        _ => Some(len),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Feeds pieces that end at the places.
    fn check(bytes: &[u8], depth_max: u32, cuts: &[usize]) -> Result<(), Problem> {
        let mut json = Json::new(depth_max);
        let mut start = 0;
        for cut in cuts
            .iter()
            .map(|cut| cut % (bytes.len() + 1))
            .chain([bytes.len()])
        {
            if cut > start {
                json.feed(&bytes[start..cut])
                    .map_err(|(_, problem)| problem)?;
                start = cut;
            }
        }
        json.finish()
    }

    fn assert_like_serde(text: &str, cuts: &[usize]) {
        let expected = match serde_json::from_str::<Value>(text) {
            Ok(_) => true,
            Err(error) if error.to_string().contains("number out of range") => return,
            Err(error) => {
                // Its own limit of depth.
                assert!(!error.to_string().contains("recursion"), "{text:?}");
                false
            }
        };
        let found = check(text.as_bytes(), LEVELS, cuts);
        assert_eq!(found.is_ok(), expected, "{text:?}: {found:?}");
    }

    #[test]
    fn the_grammar_is_strict() {
        for text in [
            "0",
            "-0",
            "1.5e+10",
            "1E5",
            "-12.0e-0",
            "true",
            " null\r\n\t",
            "\"\"",
            "[]",
            "{}",
            "[1,2]",
            "{\"a\":[{}],\"a\":null}",
            r#""\u0000\uD83D\uDE00\n\/""#,
            "\"\u{7f}é😀\"",
            "[[],[[]]]",
            "[0,-1]",
            "{\"\":0}",
            "",
            " ",
            "00",
            "01",
            "+1",
            "-",
            ".5",
            "1.",
            "1e",
            "1e+",
            "- 1",
            "tru",
            "truee",
            "nul",
            "True",
            "NaN",
            "'a'",
            "\"",
            "\"\\x\"",
            "\"\\u12G4\"",
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            r#""\ud800\n""#,
            "\"\n\"",
            "\"\t\"",
            "[",
            "]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:2}",
            "[1}",
            "{\"a\":1]",
            "1 2",
            "{}{}",
            "[] ]",
            "// a\n1",
            "1\u{c}",
            "\u{a0}1",
            "[1,\"a\":2]",
            "[01]",
            "[-01,1]",
            "[-0,0.0,-10.50]",
            "[1.]",
            "[1.,1]",
            "[.1]",
            "[-]",
            "[1e]",
            "[1e5,1.5E-5]",
            "[1.5.5]",
            "[1x]",
            "[{\"a\":1},[1,2]]",
            "[[1],{\"a\":1,\"b\":2}]",
            "[{},[\"a\":1]]",
        ] {
            assert_like_serde(text, &[]);
            let everywhere: Vec<_> = (0..text.len()).collect();
            assert_like_serde(text, &everywhere);
        }
    }

    #[test]
    fn the_depth_is_bounded_and_the_kind_of_each_level_is_remembered() {
        for depth in [1, 63, 64, 65, 128, LEVELS] {
            let mut text = String::new();
            for level in 0..depth {
                text.push_str(if level % 3 == 0 { "{\"a\":" } else { "[" });
            }
            text.push('1');
            for level in (0..depth).rev() {
                text.push(if level % 3 == 0 { '}' } else { ']' });
            }
            assert_eq!(check(text.as_bytes(), depth, &[]), Ok(()));
            let fault = check(text.as_bytes(), depth - 1, &[]);
            assert_eq!(fault, Err(Problem::Depth(depth - 1)));
        }
        let deep = "[".repeat(LEVELS as usize + 1);
        assert_eq!(
            check(deep.as_bytes(), u32::MAX, &[]),
            Err(Problem::Depth(LEVELS))
        );
    }

    #[test]
    fn a_fault_names_its_place() {
        let mut json = Json::new(64);
        assert_eq!(
            json.feed(b"{\"a\": 1,}"),
            Err((8, Problem::Is("the name of a member should stand here")))
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn values_are_accepted_and_damaged_ones_as_serde_does(
            value in value(),
            pretty in any::<bool>(),
            at in any::<prop::sample::Index>(),
            with in prop::sample::select(&["", "\"", "\\", "}", "]", "[", "{", ",", ":", "0", "-", "e", ".", " ", "\\ud83d", "\u{1}"][..]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            cuts.sort_unstable();
            prop_assert_eq!(check(text.as_bytes(), 64, &cuts), Ok(()));

            let mut characters: Vec<_> = text.chars().map(String::from).collect();
            let at = at.index(characters.len());
            characters[at] = with.to_owned();
            assert_like_serde(&characters.concat(), &cuts);
        }

        #[test]
        fn texts_of_its_own_letters_are_judged_as_serde_does(
            letters in prop::collection::vec(prop::sample::select(&["{", "}", "[", "]", "\"", "\"a\"", ":", ",", "0", "1", "-", "+", ".", "e", "true", "nul", "l", " ", "\n", "\\u", "d83d", "de00", "\\"][..]), 0..12),
            cuts in prop::collection::vec(any::<usize>(), 0..5),
        ) {
            let mut cuts = cuts;
            let text = letters.concat();
            cuts.iter_mut().for_each(|cut| *cut %= text.len() + 1);
            cuts.sort_unstable();
            assert_like_serde(&text, &cuts);
        }
    }
}
