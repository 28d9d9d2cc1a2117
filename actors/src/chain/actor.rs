//! The owner of a chain: it decides which provider serves which call.

use actix::{Actor, Context, Handler};

use super::chains::{ChainDeps, ChainEntry};
use super::error::{ChainError, Unusable};
use super::messages::{ReadStatus, Serve, SetDrained};
use super::status::ChainStatus;
use crate::kernel::{Call, Child, ChildSpec};

/// The owner of an open chain.
pub struct Chain;

impl Chain {
    /// The providers and the owner of a chain.
    pub(super) fn children(entry: &ChainEntry, _: &ChainDeps) -> Vec<ChildSpec> {
        vec![ChildSpec::actor(&entry.handle, |_| Self)]
    }
}

impl Actor for Chain {
    type Context = Context<Self>;
}

impl Child for Chain {}

impl Handler<Call<Serve>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<Serve>, _: &mut Context<Self>) {
        if let Some((serve, reply)) = call.accept() {
            let none = |_| {
                Err(ChainError::NoProvider(Unusable {
                    reasons: Vec::new(),
                    retry_after: None,
                }))
            };
            reply.send(serve.calls.iter().map(none).collect());
        }
    }
}

impl Handler<Call<ReadStatus>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<ReadStatus>, _: &mut Context<Self>) {
        if let Some((ReadStatus, reply)) = call.accept() {
            reply.send(ChainStatus {
                head: None,
                head_hash: None,
                finalized: None,
                head_age_seconds: None,
                providers: Vec::new(),
            });
        }
    }
}

impl Handler<Call<SetDrained>> for Chain {
    type Result = ();

    fn handle(&mut self, call: Call<SetDrained>, _: &mut Context<Self>) {
        if let Some((_, reply)) = call.accept() {
            reply.send(false);
        }
    }
}
