//! Which chain a provider serves: asked at the start and after each new connection.

use std::sync::Arc;
use std::time::Duration;

use super::exchange::answers;
use super::fault::{Fault, Unused};
use super::shared::{Served, Shared};
use super::transport::Transport;
use super::wire::{Answers, Member, parts, write};
use crate::chain::rpc::Call;

/// How long the question may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// Lets the provider tell its chain, if connections were made since it last did, or if `again`.
///
/// # Errors
/// It serves another chain, or has no answer.
pub(super) async fn ensure_chain(
    shared: &Arc<Shared>,
    transport: &Transport,
    again: bool,
) -> Result<(), Fault> {
    let is_verified = || {
        let state = shared.state();
        state.served == Served::Right && state.verified >= transport.connects()
    };
    if !again && is_verified() {
        return Ok(());
    }
    let _checking = shared.checking.lock().await;
    // Another one has asked meanwhile.
    if !again && is_verified() {
        return Ok(());
    }
    let connects = transport.connects();
    let found = ask_number(shared, transport, "eth_chainId", CHECK_WITHIN).await?;
    let mut state = shared.state();
    if found != shared.chain_id {
        if state.served != Served::Wrong(found) {
            let (chain, provider) = (&*shared.chain, &*shared.config.name);
            let expected = shared.chain_id;
            tracing::error!(
                chain,
                provider,
                expected,
                found,
                "a provider serves another chain"
            );
        }
        state.served = Served::Wrong(found);
        return Err(Unused::WrongChain { found }.into());
    }
    if state.served != Served::Right {
        shared.used_again.notify_one();
    }
    state.served = Served::Right;
    state.verified = state.verified.max(connects);
    Ok(())
}

/// The number that the provider answers to a call without parameters.
///
/// # Errors
/// It has no answer, or one that is no number.
pub(super) async fn ask_number(
    shared: &Shared,
    transport: &Transport,
    method: &str,
    within: Duration,
) -> Result<u64, Fault> {
    let id = shared.ids(1);
    let call = Call::new(method, "[]");
    let body = write(id, std::iter::once(parts(&call)));
    let answer = transport.post(body, within).await?;
    let Answers::Each(mut each) = answers(answer, id, 1).await? else {
        return Err(Fault::NotRpc("the answer to one call is a batch"));
    };
    let found = match each.pop().flatten() {
        Some(Member::Result(text)) => number(&text),
        Some(error) => {
            shared.outcome(&call, error)?;
            None
        }
        None => None,
    };
    found.ok_or(Fault::NotRpc(
        "it does not tell its chain or its newest block",
    ))
}

/// A number of JSON-RPC: a text with hexadecimal digits.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim().trim_matches('"');
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
