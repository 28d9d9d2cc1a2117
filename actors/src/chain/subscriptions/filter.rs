//! Which logs a subscriber wants.

use std::borrow::Cow;

use serde::Deserialize;

use crate::chain::hex;

/// The most addresses, or alternatives for a topic, of one filter.
const ALTERNATIVES_MAX: usize = 1000;
/// What a key takes in an index.
const KEY_BYTES: usize = 256;
/// A log has at most so many topics.
const TOPICS_MAX: usize = 4;

/// Which logs are wanted: those of any of the addresses, if there are some, whose topics match at each position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogsFilter {
    /// In ascending order, as all alternatives here.
    addresses: Vec<Address>,
    /// The alternatives for each position. Without one, any topic matches.
    topics: Vec<Vec<Word>>,
}

/// The address of a contract.
pub(super) type Address = [u8; 20];
/// A topic.
pub(super) type Word = [u8; 32];

/// What each log that a filter wants has one of.
pub(super) enum Keys<'filter> {
    /// These addresses.
    Addresses(&'filter [Address]),
    /// These first topics.
    FirstTopics(&'filter [Word]),
    /// Nothing that is known.
    None,
}

/// Why a filter is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterFault {
    /// It has another form.
    #[error(
        "a filter is an object with `address`, a text or several, and `topics`, a list of texts, lists and nulls"
    )]
    Form,
    /// An address or topic is not hexadecimal, or has another length.
    #[error("an address has 20 bytes and a topic 32, as hexadecimal digits after 0x")]
    Digits,
    /// It has too many parts.
    #[error(
        "a filter has at most {ALTERNATIVES_MAX} addresses, {TOPICS_MAX} topics, and as many alternatives for each as addresses"
    )]
    TooLarge,
}

/// What a filter is read from.
#[derive(Deserialize)]
struct Written<'text> {
    #[serde(borrow, default)]
    address: Option<OneOrMore<'text>>,
    #[serde(borrow, default)]
    topics: Option<Vec<Option<OneOrMore<'text>>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore<'text> {
    #[serde(borrow)]
    One(Cow<'text, str>),
    #[serde(borrow)]
    More(Vec<Option<Cow<'text, str>>>),
}

/// What of a log a filter looks at.
pub(super) struct LogHead {
    pub(super) address: Address,
    pub(super) topics: Vec<Word>,
}

impl LogHead {
    /// Reads it from a log.
    pub(super) fn read(log: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Written<'text> {
            #[serde(borrow)]
            address: Cow<'text, str>,
            #[serde(borrow)]
            topics: Vec<Cow<'text, str>>,
        }
        let written: Written<'_> = serde_json::from_slice(log).ok()?;
        let topics = written.topics.iter().map(|topic| hex::bytes(topic));
        Some(Self {
            address: hex::bytes(&written.address)?,
            topics: topics.collect::<Option<_>>()?,
        })
    }
}

impl LogsFilter {
    /// Reads the second parameter of `eth_subscribe`.
    ///
    /// # Errors
    /// See [`FilterFault`].
    pub fn read(text: &str) -> Result<Self, FilterFault> {
        // A struct could be read from an array as well.
        if !text.trim_start().starts_with('{') {
            return Err(FilterFault::Form);
        }
        let written: Written<'_> = serde_json::from_str(text).map_err(|_| FilterFault::Form)?;
        let topics = written.topics.unwrap_or_default();
        if topics.len() > TOPICS_MAX {
            return Err(FilterFault::TooLarge);
        }
        let topics = topics
            .into_iter()
            .map(alternatives)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            addresses: alternatives(written.address)?,
            topics,
        })
    }

    /// Whether it wants a log.
    pub(super) fn wants(&self, log: &LogHead) -> bool {
        let topics = self.topics.iter().enumerate();
        let mut topics = topics.map(|(index, wanted)| (wanted, log.topics.get(index)));
        is_one_of(&self.addresses, &log.address)
            && topics.all(|(wanted, found)| found.is_some_and(|found| is_one_of(wanted, found)))
    }

    /// Its memory, with that of its keys in an index.
    pub(super) fn bytes(&self) -> u64 {
        let topics = self.topics.iter().map(|it| it.len() * size_of::<Word>());
        let own = self.addresses.len() * size_of::<Address>() + topics.sum::<usize>();
        let keys = match self.keys() {
            Keys::Addresses(addresses) => addresses.len(),
            Keys::FirstTopics(topics) => topics.len(),
            Keys::None => 0,
        };
        (own + keys * KEY_BYTES) as u64
    }

    /// What each log that it wants has one of.
    pub(super) fn keys(&self) -> Keys<'_> {
        match (&*self.addresses, self.topics.first()) {
            ([], Some(topics)) if !topics.is_empty() => Keys::FirstTopics(topics),
            ([], _) => Keys::None,
            (addresses, _) => Keys::Addresses(addresses),
        }
    }
}

/// Without alternatives, anything is one.
fn is_one_of<T: Ord>(wanted: &[T], found: &T) -> bool {
    wanted.is_empty() || wanted.binary_search(found).is_ok()
}

/// `null` as one of several alternatives lets any topic match, as for geth.
fn alternatives<const N: usize>(
    written: Option<OneOrMore<'_>>,
) -> Result<Vec<[u8; N]>, FilterFault> {
    let texts = match written {
        None => return Ok(Vec::new()),
        Some(OneOrMore::One(text)) => vec![Some(text)],
        Some(OneOrMore::More(texts)) => texts,
    };
    if texts.len() > ALTERNATIVES_MAX {
        return Err(FilterFault::TooLarge);
    }
    if texts.contains(&None) {
        return Ok(Vec::new());
    }
    let texts = texts.into_iter().flatten();
    let read = texts.map(|text| hex::bytes(&text).ok_or(FilterFault::Digits));
    let mut read = read.collect::<Result<Vec<_>, _>>()?;
    read.sort_unstable();
    read.dedup();
    Ok(read)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn address(digit: char) -> String {
        format!("0x{}", digit.to_string().repeat(40))
    }

    fn topic(digit: char) -> String {
        format!("0x{}", digit.to_string().repeat(64))
    }

    fn log(from: char, topics: &str) -> String {
        let topics: Vec<_> = topics.chars().map(topic).collect();
        serde_json::json!({ "address": address(from), "topics": topics, "data": "0x" }).to_string()
    }

    #[test]
    fn logs_are_matched_as_nodes_do_it() {
        let (a, b) = (address('a'), address('b'));
        let (t, u) = (topic('1'), topic('2'));
        for (filter, wanted, unwanted) in [
            ("{}".to_owned(), vec![log('a', ""), log('b', "12")], vec![]),
            (
                format!(
                    r#"{{"address":"{}"}}"#,
                    a.to_uppercase().replace("0X", "0x")
                ),
                vec![log('a', "1")],
                vec![log('b', "1")],
            ),
            (
                format!(r#"{{"address":["{a}","{b}"]}}"#),
                vec![log('a', ""), log('b', "")],
                vec![log('c', "")],
            ),
            (
                format!(r#"{{"address":[],"topics":["{t}"]}}"#),
                vec![log('a', "1"), log('a', "12")],
                vec![log('a', "2"), log('a', "")],
            ),
            (
                format!(r#"{{"topics":[null,"{u}"]}}"#),
                vec![log('a', "12"), log('a', "22")],
                vec![log('a', "1"), log('a', "21")],
            ),
            (
                format!(r#"{{"topics":[["{t}","{u}"],[]]}}"#),
                vec![log('a', "12"), log('a', "21")],
                vec![log('a', "1"), log('a', "31")],
            ),
            (
                format!(r#"{{"topics":[["{t}",null]],"address":null}}"#),
                vec![log('a', "3")],
                vec![log('a', "")],
            ),
        ] {
            let read = LogsFilter::read(&filter).unwrap();
            let is_wanted = |log: &String| read.wants(&LogHead::read(log.as_bytes()).unwrap());
            assert!(wanted.iter().all(is_wanted), "{filter}");
            assert!(!unwanted.iter().any(is_wanted), "{filter}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for (text, fault) in [
            ("[]", FilterFault::Form),
            ("1", FilterFault::Form),
            (r#"{"address":1}"#, FilterFault::Form),
            (r#"{"address":"0x12"}"#, FilterFault::Digits),
            (r#"{"topics":["0xzz"]}"#, FilterFault::Digits),
            (
                r#"{"topics":[null,null,null,null,null]}"#,
                FilterFault::TooLarge,
            ),
        ] {
            assert_eq!(LogsFilter::read(text), Err(fault), "{text}");
        }
        let many = vec![address('a'); ALTERNATIVES_MAX + 1];
        let many = serde_json::json!({ "address": many }).to_string();
        assert_eq!(LogsFilter::read(&many), Err(FilterFault::TooLarge));
    }
}
