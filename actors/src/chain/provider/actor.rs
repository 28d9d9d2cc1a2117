//! A stub.
use actix::{Actor, Context, Handler};

use super::{Fault, Send, Unused};
use crate::kernel::{Call, Child};

/// A stub.
pub struct Provider;
impl Actor for Provider {
    type Context = Context<Self>;
}
impl Child for Provider {}
impl Handler<Call<Send>> for Provider {
    type Result = ();
    fn handle(&mut self, call: Call<Send>, _: &mut Context<Self>) {
        if let Some((_, reply)) = call.accept() {
            reply.send(Err(Fault::Unused(Unused::Unchecked)));
        }
    }
}
