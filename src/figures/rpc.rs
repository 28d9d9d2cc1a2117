//! What the server measures of requests to chains.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use headroom_actors::chain::ChainEntry;
use headroom_actors::kernel::{Label, Metric, SHORT_TIMES};
use metrics::{Counter, Gauge, Histogram};

const CHAIN: Label = Label::described("chain", "the name of a chain in the settings");

const CALLS: Metric = Metric::counter(
    "headroom_rpc_calls_total",
    "Calls to chains. Outcomes: result and error: the answer of a provider or of the cache, where error is about the call, \
     such as a revert; malformed: no valid call; refused: not taken, because the server is busy or out of memory, or the \
     client has too many calls; the others as in the `data` of errors.",
)
.labels(&[
    CHAIN,
    Label::one_of("method", &METHODS),
    Label::one_of("outcome", &OUTCOMES),
]);
const REQUEST_SECONDS: Metric = Metric::histogram(
    "headroom_rpc_request_duration_seconds",
    "Time from the body of a request to its answers, the opening of the chain included.",
    SHORT_TIMES,
)
.labels(&[CHAIN]);
const BATCH_CALLS: Metric = Metric::histogram(
    "headroom_rpc_batch_calls",
    "Calls of each batch.",
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0],
)
.labels(&[CHAIN]);

const WEBSOCKETS: Metric = Metric::gauge(
    "headroom_rpc_websockets",
    "WebSocket connections to chains that are open.",
)
.labels(&[CHAIN]);
const WEBSOCKETS_REFUSED: Metric = Metric::counter(
    "headroom_rpc_websockets_refused_total",
    "WebSocket connections to chains that were refused. Reasons: client: this client has too many; server: all clients \
     together have; memory: there is none for the connection.",
)
.labels(&[CHAIN, Label::one_of("reason", &REFUSED_FOR)]);

/// The metrics of requests to chains.
pub const METRICS: &[Metric] = &[
    CALLS,
    REQUEST_SECONDS,
    BATCH_CALLS,
    WEBSOCKETS,
    WEBSOCKETS_REFUSED,
];

/// Why a WebSocket connection can be refused.
const REFUSED_FOR: [&str; 3] = ["client", "server", "memory"];

/// The methods that are counted by themselves. All others are `other`.
const METHODS: [&str; 31] = [
    "other",
    "debug_traceCall",
    "debug_traceTransaction",
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_createAccessList",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "eth_getBlockReceipts",
    "eth_getCode",
    "eth_getFilterChanges",
    "eth_getFilterLogs",
    "eth_getLogs",
    "eth_getProof",
    "eth_getStorageAt",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_maxPriorityFeePerGas",
    "eth_newFilter",
    "eth_sendRawTransaction",
    "eth_simulateV1",
    "eth_syncing",
    "net_version",
    "trace_block",
    "web3_clientVersion",
];

/// What can become of a call.
const OUTCOMES: [&str; 14] = [
    "result",
    "error",
    "malformed",
    "refused",
    "forbidden",
    "invalid",
    "unsupported",
    "no_provider",
    "failed",
    "no_quorum",
    "reorganised",
    "deadline",
    "memory",
    "internal",
];

/// The figures of requests to one chain. Clones share them.
#[derive(Clone)]
pub struct RpcFigures(Arc<Series>);

struct Series {
    chain: Arc<str>,
    /// By method and outcome. A series begins with its first call.
    calls: Vec<OnceLock<Counter>>,
    seconds: Histogram,
    batches: Histogram,
    sockets: Gauge,
    /// By reason. They start with the server.
    refused_sockets: [Counter; REFUSED_FOR.len()],
}

/// A WebSocket connection that counts as open, until it is dropped.
pub struct OpenSocket(RpcFigures);

impl Drop for OpenSocket {
    fn drop(&mut self) {
        let Self(RpcFigures(series)) = self;
        series.sockets.decrement(1.0);
    }
}

impl RpcFigures {
    /// The figures of a chain.
    pub fn new(chain: &ChainEntry) -> Self {
        let chain: Arc<str> = chain.config.name.as_str().into();
        let calls = std::iter::repeat_with(OnceLock::new);
        let refused = |reason: &'static str| metrics::counter!(WEBSOCKETS_REFUSED.name, "chain" => Arc::clone(&chain), "reason" => reason);
        Self(Arc::new(Series {
            calls: calls.take(METHODS.len() * OUTCOMES.len()).collect(),
            seconds: metrics::histogram!(REQUEST_SECONDS.name, "chain" => Arc::clone(&chain)),
            batches: metrics::histogram!(BATCH_CALLS.name, "chain" => Arc::clone(&chain)),
            sockets: metrics::gauge!(WEBSOCKETS.name, "chain" => Arc::clone(&chain)),
            refused_sockets: REFUSED_FOR.map(refused),
            chain,
        }))
    }

    /// Counts a WebSocket connection that was refused.
    pub fn refused_socket(&self, reason: &str) {
        let known = REFUSED_FOR.iter().zip(&self.0.refused_sockets);
        for (_, counter) in known.filter(|(known, _)| **known == reason) {
            counter.increment(1);
        }
    }

    /// Counts a WebSocket connection as open.
    pub fn open_socket(&self) -> OpenSocket {
        self.0.sockets.increment(1.0);
        OpenSocket(self.clone())
    }

    /// Counts a call of `method`, if it is one, that ended with `outcome`.
    pub fn count(&self, method: Option<&str>, outcome: &'static str) {
        let method = METHODS[1..].binary_search(&method.unwrap_or_default());
        let method = method.map_or(0, |index| index + 1);
        let Some(number) = OUTCOMES.iter().position(|known| *known == outcome) else {
            return;
        };
        let series = &*self.0;
        let Some(counter) = series.calls.get(method * OUTCOMES.len() + number) else {
            return;
        };
        let make = || {
            let chain = Arc::clone(&series.chain);
            metrics::counter!(CALLS.name, "chain" => chain, "method" => METHODS[method], "outcome" => outcome)
        };
        counter.get_or_init(make).increment(1);
    }

    /// Counts a request that was answered.
    pub fn answered(&self, took: Duration) {
        self.0.seconds.record(took);
    }

    /// Counts a batch.
    pub fn batch(&self, calls: usize) {
        self.0.batches.record(calls as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_can_be_searched() {
        assert!(METHODS[1..].is_sorted());
    }
}
