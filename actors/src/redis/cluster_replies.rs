//! What the nodes of a cluster say about addresses, with the hosts that they leave out.
//!
//! A node names another one without a host if it is told that clients reach all nodes at one host
//! (`cluster-preferred-endpoint-type unknown-endpoint`), or if it does not know its own. It names it `?` if it
//! should know a name and does not (`hostname` without `cluster-announce-hostname`). All of these mean the host
//! at which the node was reached that has answered, but with `?` the slots come with IP addresses as well.

use deadpool_redis::redis::{ServerError, Value, parse_redis_value};

/// The host of a node without a name.
const NO_NAME: &[u8] = b"?";

/// If the value is a redirection without a host, gives it the host of the node that has answered.
pub(super) fn complete_redirection(value: &mut Value, host: &str) {
    if let Value::ServerError(error) = value
        && let Some(error) = completed(error, host)
    {
        *value = Value::ServerError(error);
    }
}

/// The redirection with the host of the node that has answered. `None` if it has a host, or is none.
pub(super) fn completed(error: &ServerError, host: &str) -> Option<ServerError> {
    let code = error.code();
    let (slot, address) = error.details()?.split_once(' ')?;
    let (named, port) = address.rsplit_once(':')?;
    if !matches!(code, "MOVED" | "ASK") || !(named.is_empty() || named.as_bytes() == NO_NAME) {
        return None;
    }
    let text = format!("-{code} {slot} {host}:{port}\r\n");
    match parse_redis_value(text.as_bytes()) {
        Ok(Value::ServerError(error)) => Some(error),
        _ => None,
    }
}

/// The answer to `CLUSTER SLOTS`, as the driver can use it: it leaves out the nodes whose host is `?`, and puts
/// the host of the node that has answered where there is none.
pub(super) fn with_addresses(slots: Value) -> Value {
    let Value::Array(ranges) = slots else {
        return slots;
    };
    let ranges = ranges.into_iter().map(|range| match range {
        // The first and the last slot, and then the nodes.
        Value::Array(mut range) => {
            for node in range.iter_mut().skip(2) {
                name(node);
            }
            Value::Array(range)
        }
        other => other,
    });
    Value::Array(ranges.collect())
}

/// Gives a node without a name its IP address.
fn name(node: &mut Value) {
    let Value::Array(node) = node else {
        return;
    };
    if !matches!(node.first(), Some(Value::BulkString(host)) if host == NO_NAME) {
        return;
    }
    // After the host, the port and the identity come the other addresses.
    let address = node.get(3).and_then(ip).unwrap_or(Value::Nil);
    if let Some(host) = node.first_mut() {
        *host = address;
    }
}

/// The IP address among the other addresses of a node.
fn ip(addresses: &Value) -> Option<Value> {
    let is_ip = |name: &Value| matches!(name, Value::BulkString(name) if name == b"ip");
    let address = match addresses {
        Value::Map(pairs) => pairs.iter().find(|(name, _)| is_ip(name))?.1.clone(),
        Value::Array(words) => {
            let mut pairs = words.chunks_exact(2);
            pairs
                .find(|pair| pair.first().is_some_and(is_ip))?
                .last()?
                .clone()
        }
        _ => return None,
    };
    let is_known = matches!(&address, Value::BulkString(address) if !address.is_empty());
    is_known.then_some(address)
}
