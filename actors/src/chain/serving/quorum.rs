//! Answers that several providers must agree on.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::time::Instant;

use super::{Needs, Serving, metrics};
use crate::chain::config::QuorumConfig;
use crate::chain::error::ChainError;
use crate::chain::methods::Method;
use crate::chain::rpc::{Call, Outcome};

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
    ) -> Result<Outcome, ChainError> {
        self.wait_for_provider(call, method, needs, deadline)
            .await?;
        let ranked = self.ranked(call, method, needs, &[]);
        let mut left = ranked.map_err(ChainError::NoProvider)?.into_iter();
        let mut running = FuturesUnordered::new();
        for to in left.by_ref().take(rule.asked as usize) {
            running.push(self.send_to(call, method, to.candidate.index, deadline));
        }
        let mut answers: BTreeMap<String, (Outcome, Vec<usize>)> = BTreeMap::new();
        let (mut asked, mut last) = (0, None);
        while let Some((index, result)) = running.next().await {
            asked += 1;
            let outcome = match result {
                Ok(outcome) => outcome,
                Err(fault) => {
                    last = Some(fault);
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
                self.report_dissent(call, &answers, outcome);
                return Ok(outcome.clone());
            }
        }
        match (answers.is_empty(), last) {
            (true, Some(last)) => Err(ChainError::Failed { asked, last }),
            _ => Err(ChainError::NoQuorum {
                asked,
                needed: rule.needed,
                answers: u32::try_from(answers.len()).unwrap_or(u32::MAX),
            }),
        }
    }

    fn report_dissent(
        &self,
        call: &Call,
        answers: &BTreeMap<String, (Outcome, Vec<usize>)>,
        agreed: &Outcome,
    ) {
        let others = answers.values().filter(|(outcome, _)| outcome != agreed);
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
fn compared(outcome: &Outcome) -> String {
    let value = |text: &[u8]| serde_json::from_slice(text).unwrap_or(Value::Null);
    match outcome {
        Outcome::Result(text) => format!("result {}", value(text)),
        Outcome::Error(text) => {
            let error = value(text);
            format!("error {} {}", error["code"], error["data"])
        }
    }
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
