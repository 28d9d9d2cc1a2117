//! Looks after a provider: its chain, its newest blocks, whether it is back.
//!
//! It does so only while the provider is used: a check costs a call.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::exchange::exchange;
use super::fault::Fault;
use super::served_chain::{ensure_chain, number};
use super::shared::{Served, Shared};
use super::transport::Transport;
use super::view::Head;
use crate::chain::block::Block;
use crate::chain::methods::Weight;
use crate::chain::rpc::{Call, Outcome};
use crate::kernel::Backoff;

/// The shortest time between two checks.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Which checks also ask for the final block and whether the provider synchronises.
const RARE: u64 = 12;

/// How long it waits after a provider has not told its chain, or told another one.
const UNKNOWN_MIN: Duration = Duration::from_millis(500);
const UNKNOWN_MAX: Duration = Duration::from_secs(60);

/// A provider that says that it synchronises is believed if so many blocks are missing.
const SYNCING_BLOCKS: u64 = 8;

/// A block that was told over the WebSocket so lately is not replaced by an older one that was asked for.
const OVERTAKEN: Duration = Duration::from_secs(2);

/// Looks after the provider, without end.
pub(super) async fn look_after(shared: Arc<Shared>, transport: Transport) {
    let backoff =
        Backoff::try_new(UNKNOWN_MIN, UNKNOWN_MAX, Duration::ZERO).unwrap_or(Backoff::DEFAULT);
    let mut health = Health {
        checks: 0,
        unknown: 0,
    };
    loop {
        let now = Instant::now();
        match shared.due(now) {
            Due::Now => {
                health.check(&shared, &transport).await;
                shared.meters.state(&shared);
                let served = shared.state().served;
                let wait = match served {
                    Served::Right => {
                        health.unknown = 0;
                        jittered((shared.block_time / 4).max(INTERVAL_MIN))
                    }
                    _ => {
                        health.unknown = health.unknown.saturating_add(1);
                        backoff.delay(health.unknown).max(UNKNOWN_MIN / 4)
                    }
                };
                // A circuit that opens meanwhile is probed when that is due.
                tokio::select! {
                    () = sleep_until(now + wait) => {}
                    () = shared.woken.notified() => {}
                }
            }
            Due::At(at) => {
                tokio::select! {
                    () = sleep_until(at) => {}
                    () = shared.woken.notified() => {}
                }
            }
            Due::WhenUsed => shared.woken.notified().await,
        }
    }
}

/// Within a tenth of `interval`, so that providers are not all asked at once.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(rand::rng().random_range(0.9..=1.1))
}

/// When to check next.
enum Due {
    Now,
    At(Instant),
    WhenUsed,
}

impl Shared {
    fn due(&self, now: Instant) -> Due {
        let state = self.state();
        if state.is_drained() || state.is_idle(now) {
            return Due::WhenUsed;
        }
        if let Some(until) = state.circuit.open_until().filter(|until| *until > now) {
            return Due::At(until);
        }
        // A provider that throttles is not asked for its blocks either.
        match state.budget.paused_until.filter(|until| *until > now) {
            Some(until) => Due::At(until),
            None => Due::Now,
        }
    }
}

struct Health {
    checks: u64,
    /// Checks in a row after which the chain was not known.
    unknown: u32,
}

impl Health {
    async fn check(&mut self, shared: &Arc<Shared>, transport: &Transport) {
        let began = Instant::now();
        let is_probe = shared.state().circuit.wants_probe(began);
        let is_known = shared.state().served == Served::Right;
        let result = match ensure_chain(shared, transport, is_probe || !is_known).await {
            Ok(()) => self.ask(shared, transport).await,
            Err(fault) => {
                shared.chain_not_told(&fault, began);
                Err(fault)
            }
        };
        self.checks += 1;
        let mut state = shared.state();
        state.checked_at = Some(Instant::now());
        if let Err(fault) = &result {
            state.last_fault = Some(fault.to_string());
            // For a call, an error of the provider's own may be the call's fault. For these it is not.
            if matches!(fault, Fault::Error { .. } | Fault::Denied(_))
                && state.circuit.record(true, Instant::now())
            {
                shared.circuit_has_opened(&fault.to_string());
            }
        }
        if is_probe {
            state.circuit.probed(result.is_err(), Instant::now());
            if result.is_ok() {
                let (chain, provider) = (&*shared.chain, &*shared.config.name);
                tracing::info!(chain, provider, "a provider is back");
            }
        }
    }

    /// Asks for the newest block, and sometimes for more.
    async fn ask(&self, shared: &Arc<Shared>, transport: &Transport) -> Result<(), Fault> {
        let mut calls = vec![Arc::new(Call::new(
            "eth_getBlockByNumber",
            r#"["latest",false]"#,
        ))];
        if self.checks.is_multiple_of(RARE) || shared.state().syncing {
            let finalized = Call::new("eth_getBlockByNumber", r#"["finalized",false]"#);
            calls.push(Arc::new(finalized));
            calls.push(Arc::new(Call::new("eth_syncing", "[]")));
        }
        let now = Instant::now();
        for _ in &calls {
            // It counts, but is not refused: without the newest block, nobody could use the provider.
            shared.state().budget.take(Weight::Light, now).ok();
        }
        let _request = shared.begin_request();
        let results = match shared.batch_max(now) >= calls.len() {
            true => exchange(shared, transport, &calls).await,
            false => {
                let mut results = Vec::new();
                for call in &calls {
                    results.extend(exchange(shared, transport, std::slice::from_ref(call)).await);
                }
                results
            }
        };
        let mut results = results.into_iter();
        let latest = results.next().unwrap_or(Err(Fault::NotRpc("no answer")))?;
        shared.set_head(&latest)?;
        if let Some(Ok(Outcome::Result(finalized))) = results.next()
            && let Some(block) = Block::read(&finalized)
        {
            shared.state().finalized = Some(block.number);
        }
        if let Some(Ok(Outcome::Result(syncing))) = results.next() {
            shared.state().syncing = is_syncing(&syncing);
        }
        Ok(())
    }
}

impl Shared {
    fn chain_not_told(&self, fault: &Fault, began: Instant) {
        let (mut state, now) = (self.state(), Instant::now());
        match fault {
            Fault::Unused(_) => {}
            Fault::Throttled { retry_after } => state.budget.refused(began, now, *retry_after),
            _ => drop(state.circuit.record(true, now)),
        }
        let is_first = state.served == Served::Unknown && state.last_fault.is_none();
        drop(state);
        if is_first {
            let (chain, provider) = (&*self.chain, &*self.config.name);
            tracing::warn!(chain, provider, %fault, "a provider does not tell its chain: it is not used yet");
        }
    }

    fn set_head(&self, latest: &Outcome) -> Result<(), Fault> {
        let block = match latest {
            Outcome::Result(text) => Block::read(text),
            Outcome::Error(_) => None,
        };
        self.told_head(block.ok_or(Fault::NotRpc("no newest block"))?, false);
        Ok(())
    }

    /// Takes the newest block, which the provider told by itself or was asked for.
    pub(super) fn told_head(&self, block: Block, by_itself: bool) {
        let head = Head {
            block,
            seen_at: Instant::now(),
        };
        let mut state = self.state();
        let is_newer =
            |known: &Head| known.block.number > block.number && known.seen_at.elapsed() < OVERTAKEN;
        if !by_itself && state.subscribed && state.head.as_ref().is_some_and(is_newer) {
            // The block was told while the question was under way.
            return;
        }
        state.head = Some(head);
        drop(state);
        self.meters.head(block.number);
        self.heads.send_replace(Some(head));
    }

    /// Whether the WebSocket is wanted now.
    pub(super) fn is_followed(&self) -> bool {
        let state = self.state();
        !state.is_drained() && state.served == Served::Right && !state.is_idle(Instant::now())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syncing<'a> {
    current_block: &'a str,
    highest_block: &'a str,
}

fn is_syncing(text: &[u8]) -> bool {
    let Ok(syncing) = serde_json::from_slice::<Syncing<'_>>(text) else {
        return false;
    };
    let read = |text: &str| number(text.as_bytes());
    match (read(syncing.current_block), read(syncing.highest_block)) {
        (Some(current), Some(highest)) => highest.saturating_sub(current) > SYNCING_BLOCKS,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_synchronises_if_it_lacks_more_than_a_few_blocks() {
        for (text, expected) in [
            ("false", false),
            ("true", false),
            ("null", false),
            (
                r#"{"currentBlock":"0x10","highestBlock":"0x100","startingBlock":"0x0"}"#,
                true,
            ),
            (r#"{"currentBlock":"0x10","highestBlock":"0x12"}"#, false),
            (r#"{"currentBlock":"0x0","highestBlock":"0x0"}"#, false),
            (r#"{"batchSeen":1}"#, false),
        ] {
            assert_eq!(is_syncing(text.as_bytes()), expected, "{text}");
        }
    }
}
