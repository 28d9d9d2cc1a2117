//! The methods of filters, which the gateway keeps itself.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::Serving;
use crate::chain::error::ChainError;
use crate::chain::filters::{Ask, FilterError, FilterId, Finished, Poll};
use crate::chain::hex::BlockHash;
use crate::chain::rpc::{Call, Outcome};
use crate::kernel::reserved_bytes;

/// How often a poll begins anew because the chain has changed meanwhile.
const POLLS_MAX: usize = 4;
/// What the hash of a transaction takes in an answer.
const PENDING_BYTES: usize = 69;

impl Serving {
    /// Serves a method of filters.
    pub(super) async fn filter(
        self: &Rc<Self>,
        call: &Arc<Call>,
        caller: &Arc<str>,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        self.catch_up().await;
        // Many of these calls ask no provider, and yet tell of new blocks.
        self.look_after_providers();
        let now = Instant::now();
        let made = |id: Result<FilterId, FilterError>| match id {
            Ok(id) => Ok(text(&id.to_string())),
            Err(error) => refused(error),
        };
        let id = || {
            let (id,): (&str,) = serde_json::from_slice(&call.params).ok()?;
            FilterId::parse(id)
        };
        Ok(match (&*call.method, id()) {
            ("eth_newFilter", _) => {
                let heads = self.heads.borrow();
                let mut filters = self.filters.borrow_mut();
                made(filters.new_logs(caller, &call.params, &heads, now))?
            }
            ("eth_newBlockFilter", _) => {
                let heads = self.heads.borrow();
                let mut filters = self.filters.borrow_mut();
                made(filters.new_blocks(caller, &heads, now))?
            }
            ("eth_uninstallFilter", Some(id)) => {
                let is_removed = self.filters.borrow_mut().uninstall(id);
                Outcome::Result(is_removed.to_string().into())
            }
            ("eth_getFilterLogs", Some(id)) => {
                let params = self.filters.borrow_mut().logs(id, now);
                match params {
                    Ok(params) => self.search_for_filter(params, deadline).await?,
                    Err(error) => refused(error)?,
                }
            }
            ("eth_getFilterChanges", Some(id)) => self.changes(id, deadline).await?,
            ("eth_newPendingTransactionFilter", _) => {
                let wanted = self.want_pending()?;
                self.pending_ready().await?;
                let next = self.pending_hashes().next();
                let mut filters = self.filters.borrow_mut();
                made(filters.new_pending(caller, wanted, next, Instant::now()))?
            }
            _ => {
                return Err(ChainError::Invalid(
                    "the id of a filter is missing or wrong",
                ));
            }
        })
    }

    async fn search_for_filter(
        self: &Rc<Self>,
        params: Bytes,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        let call = Arc::new(Call::new("eth_getLogs", params));
        self.logs(&call, self.newest(), deadline).await
    }

    async fn changes(
        self: &Rc<Self>,
        id: FilterId,
        deadline: Instant,
    ) -> Result<Outcome, ChainError> {
        for _ in 0..POLLS_MAX {
            let asked = {
                let heads = self.heads.borrow();
                let mut filters = self.filters.borrow_mut();
                filters.changes(id, &heads, Instant::now())
            };
            let finished = match asked {
                Ok(Ask::Nothing(answer)) => return Ok(Outcome::Result(answer)),
                Ok(Ask::Pending { next }) => return self.pending_since(id, next),
                Ok(Ask::Logs { poll, params }) => {
                    match self.search_for_filter(params, deadline).await? {
                        Outcome::Result(logs) => {
                            let heads = self.heads.borrow();
                            let mut filters = self.filters.borrow_mut();
                            filters.finish(&poll, &logs, &heads, Instant::now())
                        }
                        error @ Outcome::Error(_) => return Ok(error),
                    }
                }
                Ok(Ask::Hashes { poll }) => {
                    let hashes = self.hashes(&poll, deadline).await;
                    let heads = self.heads.borrow();
                    let mut filters = self.filters.borrow_mut();
                    filters.finish_hashes(&poll, &hashes, &heads, Instant::now())
                }
                Err(error) => return refused(error),
            };
            match finished {
                Ok(Finished::Answer(answer)) => return Ok(Outcome::Result(answer)),
                Ok(Finished::Again) => {}
                Err(error) => return refused(error),
            }
        }
        // Nothing is lost: the next poll has it.
        Ok(Outcome::Result(Bytes::from_static(b"[]")))
    }

    /// The hashes of transactions from the number `next` on, which the filter has given out with that.
    fn pending_since(&self, id: FilterId, next: u64) -> Result<Outcome, ChainError> {
        let hashes = self.pending_hashes();
        let fresh = hashes.since(next);
        let memory = self.take_memory((fresh.len() * PENDING_BYTES + 2) as u64)?;
        let texts: Vec<_> = fresh.map(|hash| format!("\"{hash}\"")).collect();
        let answer = format!("[{}]", texts.join(",")).into_bytes();
        self.filters.borrow_mut().finish_pending(id, hashes.next());
        let answer = reserved_bytes(answer, Some(&Arc::new(memory)));
        Ok(Outcome::Result(answer))
    }

    /// The hashes of the blocks of a poll. Fewer if one cannot be had.
    async fn hashes(&self, poll: &Poll, deadline: Instant) -> Vec<BlockHash> {
        let mut hashes = Vec::new();
        for number in poll.from..=poll.to {
            let params = format!("[\"{number:#x}\",false]");
            let within = (deadline - Instant::now()).min(super::following::WITHIN);
            let block = self.block("eth_getBlockByNumber", params);
            match tokio::time::timeout(within, block).await {
                Ok(Some(block)) => hashes.push(block.hash),
                Ok(None) | Err(_) => break,
            }
        }
        hashes
    }
}

fn text(text: &str) -> Outcome {
    Outcome::Result(format!("\"{text}\"").into())
}

/// The error as nodes write it: clients know it by its text.
fn refused(error: FilterError) -> Result<Outcome, ChainError> {
    let code = match error {
        FilterError::Malformed => -32602,
        FilterError::TooMany => -32005,
        FilterError::NotFound | FilterError::NoHead => -32000,
        FilterError::Memory => return Err(ChainError::Memory),
    };
    let error = format!("{{\"code\":{code},\"message\":\"{error}\"}}");
    Ok(Outcome::Error(error.into()))
}
