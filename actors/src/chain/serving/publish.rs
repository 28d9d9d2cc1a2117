//! Signed transactions: published through several providers, and told as published once one of them has it.
//!
//! To publish the same transaction twice harms nobody. So a provider that says that it knows the transaction already has
//! confirmed it, and after an error or a time-out that leaves it open the transaction is looked for by its hash, which is
//! computed here.

use std::borrow::Cow;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ethers_core::types::Bytes as RawTransaction;
use ethers_core::utils::keccak256;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::attempts::Answer;
use super::{Needs, Serving};
use crate::chain::error::ChainError;
use crate::chain::methods::Method;
use crate::chain::provider::Fault;
use crate::chain::rpc::{Call, Outcome};

/// Providers that get a transaction at once.
const AT_ONCE: usize = 3;
/// Rounds of providers for one transaction, and the pause in between.
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// What nodes say of a transaction that they have.
const KNOWN: &[&str] = &[
    "already known",
    "known transaction",
    "alreadyknown",
    "already imported",
    "already in mempool",
    "already in the mempool",
    "already in pool",
    "transaction already in",
];
/// What they say of one that may be in a block.
const USED_NONCE: &[&str] = &[
    "already_exists",
    "already exists",
    "nonce too low",
    "nonce is too low",
    "oldnonce",
    "nonce has already been used",
];

/// What the error of a provider means for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The provider has it.
    Known,
    /// It is in a block, or another one with its nonce is.
    UsedNonce,
    /// It is refused.
    Refused,
}

impl Serving {
    /// Publishes a signed transaction. The result is its hash.
    pub(super) async fn publish(
        self: &Rc<Self>,
        call: &Arc<Call>,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let method = Method::of(&call.method);
        let needs = Needs::on_any_branch();
        let Some(hash) = hash_of(&call.params) else {
            // A provider says what is wrong with it.
            let answer = self.attempt(call, method, &needs, deadline).await?;
            return Ok(answer.outcome);
        };
        let published = || Outcome::Result(Bytes::from(format!("\"{hash}\"")));
        let mut refused = None;
        let mut failed = None;
        let mut is_open = false;
        let mut asked = 0;
        for round in 0..ROUNDS {
            if round > 0 {
                sleep_until((Instant::now() + PAUSE * round).min(deadline)).await;
            }
            let mut answers = self.send_to_several(call, method, deadline).await?;
            while let Some(answer) = answers.recv().await {
                asked += 1;
                match answer {
                    Ok(Outcome::Result(_)) => return Ok(published()),
                    Ok(Outcome::Error(error)) => match meaning(&error) {
                        Meaning::Known => return Ok(published()),
                        Meaning::UsedNonce => {
                            is_open = true;
                            refused = Some(error);
                        }
                        Meaning::Refused => refused = Some(error),
                    },
                    Err(fault) => {
                        is_open |= !matches!(fault, Fault::Unused(_) | Fault::Connect(_));
                        failed = Some(fault);
                    }
                }
            }
            if is_open && self.is_there(&hash, deadline).await {
                return Ok(published());
            }
            if refused.is_some() {
                break;
            }
        }
        match (refused, failed) {
            (Some(error), _) => Ok(Outcome::Error(error)),
            (None, Some(Fault::Error { error, .. })) => Ok(Outcome::Error(error)),
            (None, Some(last)) => Err(ChainError::Failed { asked, last }),
            (None, None) => Err(ChainError::Deadline),
        }
    }

    /// Sends a transaction to the best providers, at once. They all get it, also after the first has answered.
    async fn send_to_several(
        self: &Rc<Self>,
        call: &Arc<Call>,
        method: Method,
        deadline: Instant,
    ) -> Result<mpsc::Receiver<Result<Outcome, Fault>>, ChainError> {
        let needs = Needs::on_any_branch();
        let first = self
            .wait_for_provider(call, method, &needs, deadline)
            .await?;
        let mut to = self.ranked(call, method, &needs, &[]).unwrap_or_default();
        if to.is_empty() {
            to.push(first);
        }
        to.truncate(AT_ONCE);
        let (answers, answered) = mpsc::channel(AT_ONCE);
        for ranked in to {
            let (serving, call, answers) = (Rc::clone(self), Arc::clone(call), answers.clone());
            let sending = self.spawn(async move {
                let upstream = &serving.upstreams[ranked.candidate.index];
                let within = deadline.saturating_duration_since(Instant::now());
                let sent = upstream.send(call, method.weight, within).await;
                // Nobody may wait for it any more.
                answers.send(sent).await.ok();
            });
            if let Some(sending) = sending {
                sending.await;
            }
        }
        Ok(answered)
    }

    /// Whether a provider has the transaction with this hash.
    async fn is_there(&self, hash: &str, deadline: Instant) -> bool {
        let call = Call::new("eth_getTransactionByHash", format!("[\"{hash}\"]"));
        let call = Arc::new(call);
        let method = Method::of(&call.method);
        let needs = Needs {
            must_exist: true,
            ..Needs::default()
        };
        let answer = self.attempt(&call, method, &needs, deadline).await;
        match answer {
            Ok(Answer {
                outcome: Outcome::Result(found),
                ..
            }) => &*found != b"null",
            _ => false,
        }
    }
}

/// The hash of the transaction in `params`, with `0x`. `None` if it is none.
fn hash_of(params: &[u8]) -> Option<String> {
    let (raw,): (&str,) = serde_json::from_slice(params).ok()?;
    let raw = RawTransaction::from_str(raw).ok()?;
    let is_transaction = raw.len() > 1;
    is_transaction.then(|| format!("{:?}", ethers_core::types::H256(keccak256(&raw))))
}

/// What is read of an error.
#[derive(Deserialize)]
struct Message<'text> {
    #[serde(borrow)]
    message: Cow<'text, str>,
}

/// What the error of a provider means for a transaction.
fn meaning(error: &[u8]) -> Meaning {
    let message = serde_json::from_slice::<Message<'_>>(error);
    let text = message.map_or_else(|_| String::new(), |it| it.message.to_ascii_lowercase());
    // An unknown type of transactions is no known transaction.
    let text = text.replace("unknown transaction", "");
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if says(KNOWN) {
        Meaning::Known
    } else if says(USED_NONCE) {
        Meaning::UsedNonce
    } else {
        Meaning::Refused
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_hash_is_that_of_the_signed_bytes() {
        // The example of EIP-155.
        let params = br#"["0xf86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"]"#;
        let hash = "0x33469b22e9f636356c4160a87eb19df52b7412e8eac32a4a55ffe88ea8350788";
        assert_eq!(hash_of(params).unwrap(), hash);
        for wrong in [
            &b"[]"[..],
            b"[\"0x\"]",
            b"[\"0xzz\"]",
            b"[1]",
            b"",
            b"{}",
            b"[\"0x00\", 1]",
        ] {
            assert_eq!(hash_of(wrong), None);
        }
    }

    #[test]
    fn what_nodes_say_of_a_transaction_is_understood() {
        for (message, expected) in [
            ("already known", Meaning::Known),
            ("AlreadyKnown", Meaning::Known),
            ("ALREADY_EXISTS: already known", Meaning::Known),
            ("unknown transaction type: 48", Meaning::Refused),
            ("an account that already exists", Meaning::UsedNonce),
            ("known transaction: 0xab", Meaning::Known),
            (
                "Transaction with the same hash was already imported.",
                Meaning::Known,
            ),
            (
                "nonce too low: next nonce 5, tx nonce 4",
                Meaning::UsedNonce,
            ),
            ("OldNonce", Meaning::UsedNonce),
            (
                "insufficient funds for gas * price + value",
                Meaning::Refused,
            ),
            ("replacement transaction underpriced", Meaning::Refused),
        ] {
            let error = format!("{{\"code\":-32000,\"message\":\"{message}\"}}");
            assert_eq!(meaning(error.as_bytes()), expected, "{message}");
        }
    }
}
