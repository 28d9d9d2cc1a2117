//! Errors as nodes and providers write them.

use serde_json::json;

use super::*;
use Expected::{Behind, Caller, Internal, Pruned, Range, Throttled, Unsupported};

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Caller,
    Internal,
    Unsupported,
    Pruned,
    Behind,
    Range,
    Throttled,
}

/// What an error of a call means that says nothing itself.
fn read(method: &str, error: &str) -> Classified {
    classify(&Call::new(method, "[]"), error)
}

fn meaning(method: &str, error: &str) -> Expected {
    match read(method, error).meaning {
        Meaning::Caller => Caller,
        Meaning::Throttled { .. } => Throttled,
        Meaning::Provider(kind) => match kind {
            ErrorKind::Internal => Internal,
            ErrorKind::Unsupported => Unsupported,
            ErrorKind::Pruned => Pruned,
            ErrorKind::Behind => Behind,
            ErrorKind::Range => Range,
        },
    }
}

fn check(method: &str, cases: &[(Expected, i64, &str)]) {
    for (expected, code, message) in cases {
        let error = json!({ "code": code, "message": message }).to_string();
        assert_eq!(&meaning(method, &error), expected, "{code} {message}");
    }
}

#[test]
fn what_is_executed_and_fails_concerns_the_caller() {
    check(
        "eth_call",
        &[
            (
                Caller,
                3,
                "execution reverted: Ownable: caller is not the owner",
            ),
            (Caller, 3, "execution reverted"),
            (Caller, -32000, "execution reverted"),
            (Caller, -32000, "execution reverted: rate limit exceeded"),
            (Caller, -32000, "execution reverted: block not found"),
            (Caller, -32000, "execution reverted: missing trie node"),
            (Caller, -32015, "VM execution error."),
            (
                Caller,
                -32603,
                "VM Exception while processing transaction: reverted with reason string 'no'",
            ),
            (Caller, -32000, "out of gas"),
            (Caller, -32000, "invalid opcode: INVALID"),
            (Caller, -32000, "invalid jump destination"),
            (Caller, -32000, "stack underflow (0 <=> 1)"),
            (Caller, -32000, "gas required exceeds allowance (30000000)"),
            (Caller, -32000, "always failing transaction"),
            (
                Caller,
                -32000,
                "max fee per gas less than block base fee: address 0x1, maxFeePerGas: 1, baseFee: 7",
            ),
            (Caller, -32603, "EVM error: OutOfGas(Basic)"),
        ],
    );
}

#[test]
fn a_transaction_that_is_not_accepted_concerns_the_caller() {
    check(
        "eth_sendRawTransaction",
        &[
            (
                Caller,
                -32000,
                "insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1",
            ),
            (Caller, -32003, "Insufficient funds for gas * price + value"),
            (Caller, -32000, "nonce too low"),
            (Caller, -32000, "nonce too low: next nonce 5, tx nonce 4"),
            (Caller, -32003, "nonce too low"),
            (Caller, -32000, "already known"),
            (Caller, -32000, "ALREADY_EXISTS: already known"),
            (Caller, -32003, "transaction rejected"),
            (Caller, -32004, "Upfront cost exceeds account balance"),
            (Caller, -32006, "Incorrect nonce"),
            (
                Caller,
                -32009,
                "Gas price below configured minimum gas price",
            ),
            (Caller, -32010, "AlreadyKnown"),
            (Caller, -32010, "OldNonce"),
            (Caller, -32010, "FeeTooLow"),
            (
                Caller,
                -32010,
                "Transaction with the same hash was already imported.",
            ),
            (Caller, -32000, "Known transaction"),
            (Caller, -32000, "replacement transaction underpriced"),
            (
                Caller,
                -32000,
                "transaction underpriced: tip needed 1, tip permitted 0",
            ),
            (Caller, -32000, "could not replace existing tx"),
            (
                Caller,
                -32000,
                "intrinsic gas too low: gas 20000, minimum needed 21000",
            ),
            (Caller, -32000, "exceeds block gas limit"),
            (
                Caller,
                -32000,
                "tx fee (2.10 ether) exceeds the configured cap (1.00 ether)",
            ),
            (
                Caller,
                -32000,
                "only replay-protected (EIP-155) transactions allowed over RPC",
            ),
            (Caller, -32000, "invalid sender"),
            (Caller, -32000, "transaction type not supported"),
            (
                Caller,
                -32000,
                "rlp: expected input list for types.LegacyTx",
            ),
            (
                Caller,
                -32602,
                "rlp: element is larger than containing list",
            ),
            (Internal, -32000, "txpool is full"),
        ],
    );
}

#[test]
fn wrong_parameters_concern_the_caller() {
    check(
        "eth_getBalance",
        &[
            (
                Caller,
                -32602,
                "invalid argument 0: hex string has length 3, want 40 for common.Address",
            ),
            (Caller, -32602, "missing value for required argument 1"),
            (Caller, -32602, "Invalid params"),
            (Caller, -32602, "too many arguments, want at most 2"),
            (Caller, -32600, "Invalid Request"),
            (Caller, -32000, "invalid block tag"),
            (Caller, -32000, "filter not found"),
        ],
    );
    check(
        "eth_getLogs",
        &[
            (Caller, -32602, "invalid block range params"),
            (Caller, -32000, "invalid block range params"),
            (Caller, -32602, "exceed max topics"),
        ],
    );
}

#[test]
fn a_state_that_was_pruned_may_be_elsewhere() {
    check(
        "eth_call",
        &[
            (
                Pruned,
                -32000,
                "missing trie node b03d68ac51042467 (path ) state 0xb03d is not available, not found",
            ),
            (
                Pruned,
                -32000,
                "required historical state unavailable (reexec=128)",
            ),
            (Pruned, -32000, "historical state 0xabc is not available"),
            (
                Pruned,
                -32000,
                "state histories haven't been fully indexed yet",
            ),
            (Pruned, -32000, "state at block #1000 is pruned"),
            (
                Pruned,
                -32000,
                "This request is not supported because your node is running with state pruning. Run with --pruning=archive.",
            ),
            (Pruned, -32002, "No state available for block 0xabc"),
            (
                Pruned,
                -32000,
                "project ID does not have access to archive state",
            ),
            (Pruned, -32602, "Archive requests require a personal token"),
            (Pruned, -32000, "old data not available due to pruning"),
            (
                Pruned,
                -32000,
                "distance to target block exceeds maximum proof window",
            ),
            (
                Pruned,
                -32000,
                "no historical RPC is available for this historical (pre-bedrock) execution request",
            ),
            (Pruned, 4444, "pruned history unavailable"),
            (Pruned, -32603, "state already pruned"),
            (Pruned, -32000, "layer stale"),
        ],
    );
}

#[test]
fn a_block_that_is_not_there_may_be_elsewhere() {
    check(
        "eth_call",
        &[
            (Behind, -32000, "header not found"),
            (Behind, -32000, "header for hash not found"),
            (Behind, -32000, "unknown block"),
            (Behind, -32001, "block not found: 0x112a880"),
            (Behind, -32000, "Block not found"),
            (Behind, -32602, "Unknown block number"),
            (Behind, -32000, "cannot query unfinalized data"),
            (Behind, -32001, "Resource not found."),
            (Behind, -32000, "finalized block not found"),
            (Behind, -32000, "pending block is not available"),
            (Behind, -32008, "Initial sync is still in progress"),
        ],
    );
    check(
        "debug_traceTransaction",
        &[(Behind, -32000, "transaction not found")],
    );
    check(
        "eth_getLogs",
        &[
            (
                Behind,
                -32000,
                "block range extends beyond current head block",
            ),
            (
                Behind,
                -32000,
                "One of the blocks specified in filter (fromBlock, toBlock or blockHash) cannot be found.",
            ),
            (Behind, -32000, "unknown block"),
        ],
    );
}

#[test]
fn what_a_provider_does_not_offer_may_be_offered_elsewhere() {
    check(
        "debug_traceTransaction",
        &[
            (
                Unsupported,
                -32601,
                "the method debug_traceTransaction does not exist/is not available",
            ),
            (Unsupported, -32601, "Method not found"),
            (Unsupported, -32601, "rpc method is not whitelisted"),
            (Unsupported, -32004, "Method not supported"),
            (
                Unsupported,
                -32000,
                "method handler not found: debug namespace is disabled",
            ),
            (
                Unsupported,
                -32600,
                "Unsupported method: debug_traceTransaction. See available methods at https://docs.alchemy.com/",
            ),
            (
                Unsupported,
                -32600,
                "debug_traceTransaction is not available on the Free tier - upgrade to Pay As You Go, or Enterprise for access",
            ),
            (
                Unsupported,
                -32000,
                "This method is not included in your current plan",
            ),
            (Unsupported, -32612, "This custom RPC method is blocked"),
            (
                Unsupported,
                35,
                "method is not available on freetier, please upgrade to paid tier",
            ),
        ],
    );
}

#[test]
fn a_search_that_is_too_large_can_be_split() {
    for (limit, code, message) in [
        (
            Some(10_000),
            -32614,
            "eth_getLogs is limited to a 10,000 range",
        ),
        (
            Some(5),
            -32600,
            "eth_getLogs is limited to 0 - 5 blocks range",
        ),
        (
            Some(2_000),
            -32602,
            "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range and no limit on the response size, or you can request any block range with a cap of 10K logs in the response. Based on your parameters and the response size limit, this block range should work: [0x0, 0x3e7]",
        ),
        (
            Some(500),
            -32600,
            "You can make eth_getLogs requests with up to a 500 block range. Based on your parameters, this block range should work: [0x123c9b2, 0x123cba5]",
        ),
        (
            Some(10),
            -32600,
            "Under the Free tier plan, you can make eth_getLogs requests with up to a 10 block range. Based on your parameters, this block range should work: [0x1, 0xa]. Upgrade to PAYG for expanded block range.",
        ),
        (Some(10_000), -32602, "range 1000000 exceeds limit of 10000"),
        (
            Some(100_000),
            -32602,
            "query exceeds max block range 100000",
        ),
        (
            Some(1_024),
            -32603,
            "block range is too wide (maximum 1024)",
        ),
        (
            Some(2_048),
            -32000,
            "requested too many blocks from 1 to 5000, maximum is set to 2048 blocks range",
        ),
        (
            Some(10_000),
            35,
            "ranges over 10000 blocks are not supported on freetier",
        ),
        (None, -32005, "query returned more than 10000 results"),
        (
            None,
            -32005,
            "query returned more than 10000 results. Try with this block range [0x51DF6A, 0x51E00C].",
        ),
        (None, -32602, "query exceeds max results 20000"),
        (None, -32000, "block range is too wide"),
        (None, -32000, "exceed maximum block range"),
        (
            None,
            -32701,
            "Please specify less number of addresses or limit your search to 50 results",
        ),
        (None, -32005, "query timeout exceeded"),
        (
            None,
            -32000,
            "Response size should not greater than 10000000 bytes",
        ),
        (None, -32008, "Response is too big"),
        (None, -32005, "logs matched by query exceeds limit of 10000"),
    ] {
        let error = json!({ "code": code, "message": message }).to_string();
        let classified = read("eth_getLogs", &error);
        assert_eq!(
            classified.meaning,
            Meaning::Provider(ErrorKind::Range),
            "{message}"
        );
        if message.contains("requested too many") {
            // It also names the blocks that were asked for.
            continue;
        }
        assert_eq!(classified.logs_range_max, limit, "{message}");
    }
}

#[test]
fn refusals_of_too_many_calls_throttle() {
    let cases = [
        (
            Throttled,
            -32005,
            "daily request count exceeded, request rate limited",
        ),
        (Throttled, -32005, "project ID request rate exceeded"),
        (Throttled, -32005, "rate limit exceeded"),
        (
            Throttled,
            429,
            "Your app has exceeded its compute units per second capacity. If you have retries enabled, you can safely ignore this message.",
        ),
        (
            Throttled,
            -32000,
            "Your app has exceeded its compute units per second capacity.",
        ),
        (
            Throttled,
            -32007,
            "50/second request limit reached - reduce calls per second or upgrade your account at quicknode.com",
        ),
        (Throttled, -32016, "over rate limit"),
        (Throttled, -32029, "Too many requests"),
        (
            Throttled,
            -32090,
            "Too many requests, reason: call rate limit exhausted, retry in 10s",
        ),
        (
            Throttled,
            -32001,
            "Monthly capacity limit exceeded. Visit https://dashboard.alchemyapi.io/settings/billing to upgrade your scaling policy",
        ),
        (Throttled, -32097, "Rate limit exceeded"),
        (Throttled, -32003, "daily request limit reached"),
        (Throttled, -32000, "You've reached the free tier limits"),
        (Throttled, -32005, "limit exceeded"),
    ];
    check("eth_call", &cases);
    let (last, others) = cases.split_last().unwrap();
    check("eth_getLogs", others);
    // Some nodes refuse each search with it.
    check("eth_getLogs", &[(Range, last.1, last.2)]);
    check(
        "eth_getLogs",
        &[(Throttled, -32005, "requests limited to 15/sec")],
    );
}

#[test]
fn words_that_a_caller_has_sent_say_nothing_of_a_provider() {
    let quoted = |method: &str, params: &str, code: i64, message: &str| {
        let error = json!({ "code": code, "message": message }).to_string();
        classify(&Call::new(method, params.to_owned()), &error).meaning
    };
    for word in [
        "archive",
        "rate limit",
        "method not found",
        "Upgrade",
        "API key",
        "header not found",
    ] {
        let message = format!("invalid argument 0: cannot unmarshal {word} into accessList");
        let call = |params: &str| quoted("eth_call", params, -32602, &message);
        assert_eq!(
            call(&format!("[{{\"accessList\":\"{word}\"}}]")),
            Meaning::Caller,
            "{word}"
        );
        assert_ne!(call("[]"), Meaning::Caller, "{word}");
        // Escaped, it may be any word.
        assert_eq!(
            call(r#"[{"accessList":"\u0061"}]"#),
            Meaning::Caller,
            "{word}"
        );
    }
    let message = "the method eth_quota does not exist/is not available";
    let unknown = quoted("eth_quota", "[]", -32601, message);
    assert_eq!(unknown, Meaning::Provider(ErrorKind::Unsupported));
    let traced = |params| quoted("debug_traceCall", params, -32000, "quota at <eval>");
    let tracer = r#"[{},"latest",{"tracer":"{fault(){throw 'quo'+'ta'}}"}]"#;
    assert_eq!(traced(tracer), Meaning::Provider(ErrorKind::Internal));
    for named in [
        r#"[{},"latest"]"#,
        r#"[{},"latest",{"tracer" : "callTracer"}]"#,
    ] {
        assert!(
            matches!(traced(named), Meaning::Throttled { .. }),
            "{named}"
        );
    }
    // A revert stays one.
    let reverted = quoted(
        "eth_call",
        r#"["execution reverted"]"#,
        -32000,
        "execution reverted",
    );
    assert_eq!(reverted, Meaning::Caller);
}

#[test]
fn the_wait_that_infura_asks_for_is_read() {
    let error = json!({ "code": -32005, "message": "exceeded project rate limit", "data": {
        "rate": { "allowed_rps": 5, "backoff_seconds": 30, "current_rps": 5.2 } } });
    let wait = |error: &serde_json::Value| match read("eth_call", &error.to_string()).meaning {
        Meaning::Throttled { retry_after } => retry_after,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait(&error), Some(Duration::from_secs(30)));
    let endless =
        json!({ "code": -32005, "message": "x", "data": { "backoff_seconds": 10_000_000 } });
    assert_eq!(wait(&endless), Some(Duration::from_secs(WAIT_MAX)));
    let none = json!({ "code": -32005, "message": "x", "data": { "backoff_seconds": 0 } });
    assert_eq!(wait(&none), None);
}

#[test]
fn everything_else_is_the_providers() {
    check(
        "eth_call",
        &[
            (Internal, -32603, "Internal error"),
            (Internal, -32603, "Internal JSON-RPC error."),
            (Internal, -32000, "request timed out"),
            (Internal, -32000, "execution aborted (timeout = 5s)"),
            (Internal, -32002, "request timed out"),
            (
                Internal,
                19,
                "Temporary internal error. Please retry, trace-id: 1",
            ),
            (
                Internal,
                -32000,
                "Must be authenticated! Your API key is wrong",
            ),
            (Internal, -32002, "rejected due to project ID settings"),
            (Internal, -32000, "backend offline"),
            (Internal, -32011, "no backends available for method"),
            (Internal, -32700, "parse error"),
            (Internal, -32000, "something that nobody has ever written"),
        ],
    );
    for error in ["", "{", "null", "[]", "{}", r#""no""#, r#"{"code":{}}"#] {
        assert_eq!(meaning("eth_call", error), Internal, "{error}");
    }
}

#[test]
fn codes_as_texts_and_reverts_in_the_data_are_read() {
    assert_eq!(
        meaning("eth_call", r#"{"code":"3","message":"no"}"#),
        Caller
    );
    let parity = r#"{"code":-32603,"message":"error","data":"Reverted 0x08c379a0"}"#;
    assert_eq!(meaning("eth_call", parity), Caller);
    let escaped = r#"{"code":-32000,"message":"header\u0020not found"}"#;
    assert_eq!(meaning("eth_call", escaped), Behind);
}

#[test]
fn a_long_message_is_read_only_in_part() {
    let message = format!("{}é rate limit", "x".repeat(TEXT_MAX - 1));
    let error = json!({ "code": -32000, "message": message }).to_string();
    assert_eq!(meaning("eth_call", &error), Internal);
}

#[test]
fn refusals_of_batches_are_told_from_other_errors() {
    for (code, message) in [
        (-32600, "batch requests are not supported"),
        (-32000, "Batch size is too large"),
        (
            -32005,
            "batch limit 10 exceeded (can increase by --rpc.batch.limit)",
        ),
        (-32600, "Invalid Request"),
    ] {
        let error = json!({ "code": code, "message": message }).to_string();
        assert!(refuses_batches(&error), "{message}");
    }
    let error = json!({ "code": -32005, "message": "rate limit exceeded" }).to_string();
    assert!(!refuses_batches(&error));
}
