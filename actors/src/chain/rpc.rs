//! A call of JSON-RPC 2.0 and what it ends with, as texts that pass through unchanged.

use std::sync::Arc;

use bytes::Bytes;

/// A call as its client wrote it, without its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: Arc<str>,
    /// The text of `params`: an array or an object, or empty if there are none.
    pub params: Bytes,
}

impl Call {
    /// A call of `method` with the text of its parameters.
    pub fn new(method: impl Into<Arc<str>>, params: impl Into<Bytes>) -> Self {
        Self {
            method: method.into(),
            params: params.into(),
        }
    }
}

/// What a call ended with, as the provider wrote it. The bytes hold their part of the memory budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The text of `result`.
    Result(Bytes),
    /// The text of `error`, an object with `code`, `message` and perhaps `data`, which concerns the caller: the call was
    /// wrong, or was reverted.
    Error(Bytes),
}
