//! What the gateway knows of the methods of JSON-RPC: what their answers depend on, and what may be done with a call.

/// What the answer of a method depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depends {
    /// On nothing that changes: `eth_chainId`, `web3_sha3`.
    Nothing,
    /// On a block or transaction that is named by its hash.
    Hash,
    /// On the block that is named by this parameter: a number, a tag, a hash, or an object with one of them. A missing one
    /// is `latest`.
    Block(usize),
    /// On the blocks of a range: `eth_getLogs`.
    Range,
    /// On the newest block: `eth_blockNumber`, `eth_gasPrice`.
    Head,
    /// On the provider itself: `web3_clientVersion`, `txpool_status`.
    Provider,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it may be sent twice, and its answer may be shared and kept.
    Reads(Depends),
    /// It publishes a signed transaction: the same one may be sent to several providers.
    Publishes,
    /// It makes, reads or removes a filter, which the gateway keeps itself.
    Filters,
    /// It begins or ends a subscription, which the gateway keeps itself.
    Subscribes,
    /// It would need a key at the provider, or changes the provider. It is refused.
    Forbidden,
    /// It is not known: it is sent once, and neither shared nor kept.
    Unknown,
}

/// How much work a call is, in units of the cheapest. Providers count alike, not equally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weight {
    /// A look-up: `eth_blockNumber`.
    Light = 1,
    /// Some work: `eth_call`.
    Middle = 2,
    /// A search or a trace: `eth_getLogs`, `debug_traceTransaction`.
    Heavy = 8,
}

/// What is known of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// What a call of it does.
    pub effect: Effect,
    /// How much work it is.
    pub weight: Weight,
}

/// Whether several providers can be asked for the same answer to a method. The newest block is what they agree on anyway.
pub fn may_have_quorum(name: &str) -> bool {
    matches!(Method::of(name).effect, Effect::Reads(_)) && name != "eth_blockNumber"
}

impl Method {
    /// What is known of the method with this name.
    pub fn of(name: &str) -> Self {
        use Depends::{Block, Hash, Head, Nothing, Provider, Range};
        use Effect::{Filters, Forbidden, Publishes, Reads, Subscribes, Unknown};
        use Weight::{Heavy, Light, Middle};
        let (effect, weight) = match name {
            "eth_chainId" | "net_version" | "web3_sha3" => (Reads(Nothing), Light),
            "eth_getBlockByHash"
            | "eth_getTransactionByHash"
            | "eth_getTransactionByBlockHashAndIndex"
            | "eth_getBlockTransactionCountByHash"
            | "eth_getUncleByBlockHashAndIndex"
            | "eth_getUncleCountByBlockHash"
            | "eth_getTransactionReceipt"
            | "eth_getRawTransactionByHash" => (Reads(Hash), Light),
            "eth_getBlockByNumber"
            | "eth_getBlockTransactionCountByNumber"
            | "eth_getTransactionByBlockNumberAndIndex"
            | "eth_getUncleByBlockNumberAndIndex"
            | "eth_getUncleCountByBlockNumber" => (Reads(Block(0)), Light),
            "eth_getBlockReceipts" => (Reads(Block(0)), Middle),
            "eth_getBalance" | "eth_getCode" | "eth_getTransactionCount" => {
                (Reads(Block(1)), Light)
            }
            "eth_getStorageAt" => (Reads(Block(2)), Light),
            "eth_getProof" => (Reads(Block(2)), Middle),
            "eth_call" | "eth_estimateGas" | "eth_createAccessList" => (Reads(Block(1)), Middle),
            "eth_simulateV1" => (Reads(Block(1)), Heavy),
            "eth_feeHistory" => (Reads(Block(1)), Middle),
            "eth_getLogs" => (Reads(Range), Heavy),
            "eth_blockNumber" | "eth_gasPrice" | "eth_maxPriorityFeePerGas" | "eth_blobBaseFee" => {
                (Reads(Head), Light)
            }
            "debug_traceTransaction"
            | "trace_transaction"
            | "trace_replayTransaction"
            | "debug_traceBlockByHash" => (Reads(Hash), Heavy),
            "debug_traceBlockByNumber" | "trace_block" | "trace_replayBlockTransactions" => {
                (Reads(Block(0)), Heavy)
            }
            "debug_traceCall" => (Reads(Block(1)), Heavy),
            "web3_clientVersion"
            | "net_listening"
            | "net_peerCount"
            | "eth_protocolVersion"
            | "eth_syncing"
            | "txpool_status"
            | "eth_accounts"
            | "eth_mining"
            | "eth_hashrate"
            | "eth_coinbase"
            | "rpc_modules" => (Reads(Provider), Light),
            "txpool_content" | "txpool_inspect" => (Reads(Provider), Heavy),
            "eth_sendRawTransaction" => (Publishes, Middle),
            "eth_newFilter"
            | "eth_newBlockFilter"
            | "eth_newPendingTransactionFilter"
            | "eth_getFilterChanges"
            | "eth_getFilterLogs"
            | "eth_uninstallFilter" => (Filters, Middle),
            "eth_subscribe" | "eth_unsubscribe" => (Subscribes, Light),
            "eth_sendTransaction"
            | "eth_sign"
            | "eth_signTransaction"
            | "eth_signTypedData"
            | "eth_signTypedData_v3"
            | "eth_signTypedData_v4"
            | "debug_setHead"
            | "eth_submitWork"
            | "eth_submitHashrate"
            | "eth_getWork" => (Forbidden, Light),
            _ if [
                "admin_",
                "personal_",
                "miner_",
                "engine_",
                "anvil_",
                "hardhat_",
                "evm_",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix)) =>
            {
                (Forbidden, Light)
            }
            _ if name.starts_with("debug_") || name.starts_with("trace_") => (Unknown, Heavy),
            _ => (Unknown, Middle),
        };
        Self { effect, weight }
    }

    /// Whether the same call may be sent to another provider, whatever became of the first.
    pub fn may_be_repeated(&self) -> bool {
        matches!(self.effect, Effect::Reads(_) | Effect::Publishes)
    }
}
