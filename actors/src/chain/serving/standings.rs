//! What the API and the page show of the providers of a chain.

use tokio::time::Instant;

use super::selection::{Candidate, rank};
use super::{Needs, Serving};
use crate::chain::methods::Weight;
use crate::chain::status::{ChainStatus, ProviderPlace};

/// The method whose providers are shown.
const METHOD: &str = "eth_blockNumber";

impl Serving {
    /// The state of the chain.
    pub(in crate::chain) fn status(&self) -> ChainStatus {
        let now = Instant::now();
        let needs = Needs::default();
        let (mut candidates, mut unused) = (Vec::new(), Vec::new());
        for (index, upstream) in self.upstreams.iter().enumerate() {
            match self.candidate(index, METHOD, Weight::Light, &needs, now) {
                Ok(candidate) => candidates.push(candidate),
                Err(reason) => unused.push(ProviderPlace {
                    name: upstream.name.to_string(),
                    url: upstream.url.clone(),
                    reason: Some(reason.to_string()),
                    ..ProviderPlace::default()
                }),
            }
        }
        let ranked = rank(candidates, &self.config.selection, self.first.get());
        let used = ranked.into_iter().map(|ranked| {
            let Candidate {
                index,
                standing,
                lag,
                is_stalled,
                ..
            } = ranked.candidate;
            ProviderPlace {
                name: self.upstreams[index].name.to_string(),
                url: self.upstreams[index].url.clone(),
                is_used: true,
                reason: is_stalled.then(|| "it has calls and does not answer".to_owned()),
                score: Some(ranked.score),
                lag_blocks: standing.head.is_some().then_some(lag),
                head: standing.head.map(|head| head.block.number),
                latency_seconds: standing.latency.map(|it| it.as_secs_f64()),
                latency_p95_seconds: standing.p95.map(|it| it.as_secs_f64()),
                error_rate: standing.error_rate,
                throttle_rate: standing.throttle_rate,
                in_flight: standing.in_flight,
            }
        });
        let heads = self.heads.borrow();
        let head = heads.head();
        let told = self.upstreams.iter().filter_map(|upstream| {
            let told = upstream.told.borrow();
            let told = told.as_ref()?;
            (Some(told.block.number) == head.map(|head| head.number)).then_some(told.seen_at)
        });
        ChainStatus {
            head: head.map(|head| head.number),
            head_hash: head.map(|head| head.hash.to_string()),
            finalized: heads.finalized(),
            head_age_seconds: told
                .min()
                .map(|at| now.saturating_duration_since(at).as_secs_f64()),
            providers: used.chain(unused).collect(),
        }
    }
}
