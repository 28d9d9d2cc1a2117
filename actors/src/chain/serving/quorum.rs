//! Answers that several providers must agree on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};

use super::attempts::Answer;
use super::selection::Ranked;
use super::{Needs, Serving, metrics};
use crate::chain::config::QuorumConfig;
use crate::chain::digest::{Digest, digest};
use crate::chain::error::ChainError;
use crate::chain::methods::Method;
use crate::chain::provider::{ErrorKind, Fault};
use crate::chain::rpc::{Call, Outcome};

/// How long, and how often, it is looked for providers if there are too few.
const PATIENCE: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(10);

/// The different answers, and which providers gave each.
type Answers = BTreeMap<(bool, Digest), (Outcome, Vec<usize>)>;

impl Serving {
    /// The rule for a method, if it has one.
    pub(super) fn quorum_of(&self, method: &str) -> Option<&QuorumConfig> {
        let rules = &mut self.config.quorum.iter();
        rules.find(|rule| rule.method == method)
    }

    /// Asks several providers at once. The answer is the one that enough of them give; those that cannot answer are
    /// replaced by others.
    pub(super) async fn agree(
        &self,
        call: &Arc<Call>,
        method: Method,
        rule: &QuorumConfig,
        needs: &Needs,
        deadline: Instant,
    ) -> Result<Answer, ChainError> {
        self.wait_for_provider(call, method, needs, deadline)
            .await?;
        let mut left = self
            .wait_for_several(call, method, needs, rule.needed)
            .await?;
        let mut running = FuturesUnordered::new();
        for to in left.by_ref().take(rule.asked as usize) {
            running.push(self.send_to(call, method, to.candidate.index, deadline));
        }
        let mut answers = Answers::new();
        let (mut asked, mut last, mut too_large) = (0, None, None);
        while let Some((index, result)) = running.next().await {
            asked += 1;
            let outcome = match result {
                // It does not have what is there.
                Ok(Outcome::Result(text)) if needs.must_exist && &*text == b"null" => None,
                Ok(outcome) => Some(outcome),
                Err(Fault::NoMemory) => return Err(ChainError::Memory),
                Err(fault) => {
                    if let Fault::Error {
                        kind: ErrorKind::Range,
                        error,
                    } = &fault
                    {
                        too_large = Some(error.clone());
                    }
                    last = Some(fault);
                    None
                }
            };
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => {
                    if let Some(to) = left.next() {
                        running.push(self.send_to(call, method, to.candidate.index, deadline));
                    }
                    continue;
                }
            };
            let (_, equal) = answers
                .entry(compared(&outcome))
                .or_insert_with(|| (outcome, Vec::new()));
            equal.push(index);
            let agreed = answers
                .values()
                .find(|(_, equal)| equal.len() >= rule.needed as usize);
            if let Some((outcome, _)) = agreed {
                self.report_dissent(call, &answers, Some(outcome));
                return Ok(Answer {
                    outcome: outcome.clone(),
                    provider: None,
                    fault: None,
                });
            }
        }
        if let Some(error) = too_large {
            // They may agree on a part of the range.
            return Ok(Answer {
                outcome: Outcome::Error(error),
                provider: None,
                fault: Some(ErrorKind::Range),
            });
        }
        self.report_dissent(call, &answers, None);
        match (answers.is_empty(), last) {
            (true, Some(last)) => Err(ChainError::Failed { asked, last }),
            _ => Err(ChainError::NoQuorum {
                asked,
                needed: rule.needed,
                answers: u32::try_from(answers.len()).unwrap_or(u32::MAX),
            }),
        }
    }

    /// The providers that can serve a call, best first. Waits a moment for as many as are needed, as just after the opening of
    /// a chain.
    async fn wait_for_several(
        &self,
        call: &Arc<Call>,
        method: Method,
        needs: &Needs,
        needed: u32,
    ) -> Result<impl Iterator<Item = Ranked> + use<>, ChainError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let ranked = self.ranked(call, method, needs, &[]);
            let ranked = ranked.map_err(|unusable| ChainError::not_sent(unusable, &call.method))?;
            if ranked.len() >= needed as usize || Instant::now() >= until {
                return Ok(ranked.into_iter());
            }
            sleep(STEP).await;
        }
    }

    fn report_dissent(&self, call: &Call, answers: &Answers, agreed: Option<&Outcome>) {
        if agreed.is_none() && answers.len() < 2 {
            return;
        }
        let others = answers.values();
        let others = others.filter(|(outcome, _)| Some(outcome) != agreed);
        for index in others.flat_map(|(_, providers)| providers) {
            let provider = &*self.upstreams[*index].name;
            let (chain, method) = (&*self.config.name, &*call.method);
            metrics::dissented(chain);
            tracing::warn!(
                chain,
                provider,
                method,
                "a provider disagrees with the others"
            );
        }
    }
}

/// What of an answer is compared: its meaning, not how it is written. Of errors, the code and the data.
fn compared(outcome: &Outcome) -> (bool, Digest) {
    match outcome {
        Outcome::Result(text) => (true, digest(text)),
        Outcome::Error(text) => {
            let error = match serde_json::from_slice::<RpcError<'_>>(text) {
                Ok(RpcError { code, data }) => {
                    let data = data.map_or("null", RawValue::get);
                    digest(format!("[{code},{data}]").as_bytes())
                }
                Err(_) => digest(text),
            };
            (false, error)
        }
    }
}

/// What is compared of an error.
#[derive(Deserialize)]
struct RpcError<'text> {
    code: i64,
    #[serde(borrow, default)]
    data: Option<&'text RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_mean_the_same_are_equal() {
        let result = |text: &'static str| compared(&Outcome::Result(text.into()));
        let error = |text: &'static str| compared(&Outcome::Error(text.into()));
        assert_eq!(
            result(r#"{"a":1,"b":[2]}"#),
            result(r#"{ "b":[2], "a":1 }"#)
        );
        assert_ne!(result(r#""0x1""#), result(r#""0x2""#));
        assert_eq!(
            error(r#"{"code":3,"message":"reverted","data":"0x1"}"#),
            error(r#"{"code":3,"message":"execution reverted","data":"0x1"}"#)
        );
        assert_ne!(error(r#"{"code":3}"#), error(r#"{"code":-32000}"#));
        assert_ne!(result("null"), error("null"));
    }
}
