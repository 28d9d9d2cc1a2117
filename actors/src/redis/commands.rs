//! What the pool must know of Redis' commands, by their first word.

use deadpool_redis::redis::{Arg, Cmd};

/// Bytes of the longest word that is looked up.
const WORD_MAX: usize = 24;

/// A word of a command in upper case.
struct Word {
    bytes: [u8; WORD_MAX],
    length: usize,
}

impl Word {
    /// The word at `index`; empty if there is none, or a longer one than those that are looked up.
    fn of(command: &Cmd, index: usize) -> Self {
        let mut word = Self {
            bytes: [0; WORD_MAX],
            length: 0,
        };
        if let Some(Arg::Simple(argument)) = command.args_iter().nth(index)
            && let Some(bytes) = word.bytes.get_mut(..argument.len())
        {
            bytes.copy_from_slice(argument);
            bytes.make_ascii_uppercase();
            word.length = argument.len();
        }
        word
    }

    fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// Whether the command runs a script or a function, which can fail in its middle.
pub(super) fn is_script(command: &Cmd) -> bool {
    matches!(
        Word::of(command, 0).as_str(),
        "EVAL" | "EVALSHA" | "FCALL" | "EVAL_RO" | "EVALSHA_RO" | "FCALL_RO"
    )
}

/// Whether the driver may send the command to several nodes of a cluster.
pub(super) fn may_reach_several_nodes(command: &Cmd) -> bool {
    match Word::of(command, 0).as_str() {
        "DEL" | "UNLINK" | "EXISTS" | "TOUCH" | "MGET" => command.args_iter().len() > 2,
        "MSET" => command.args_iter().len() > 3,
        "JSON.MGET" | "JSON.MSET" | "ACL" | "CLIENT" | "CONFIG" | "DBSIZE" | "DEBUG"
        | "FLUSHALL" | "FLUSHDB" | "FT._ALIASLIST" | "FT._LIST" | "FUNCTION" | "INFO" | "KEYS"
        | "LATENCY" | "MEMORY" | "PING" | "PUBSUB" | "RANDOMKEY" | "SCRIPT" | "SLOWLOG"
        | "WAIT" | "WAITAOF" | "UNWATCH" => true,
        _ => false,
    }
}

/// Whether the driver asks with this command which node has which slots.
pub(super) fn is_topology_query(command: &Cmd) -> bool {
    Word::of(command, 0).as_str() == "CLUSTER" && Word::of(command, 1).as_str() == "SLOTS"
}

/// Whether the command changes nothing, so that it may be sent again although it may have been run.
pub(super) fn is_read(command: &Cmd) -> bool {
    matches!(
        Word::of(command, 0).as_str(),
        "BITCOUNT"
            | "BITFIELD_RO"
            | "BITPOS"
            | "DBSIZE"
            | "DUMP"
            | "ECHO"
            | "EXISTS"
            | "EXPIRETIME"
            | "GEODIST"
            | "GEOHASH"
            | "GEOPOS"
            | "GEOSEARCH"
            | "GET"
            | "GETBIT"
            | "GETRANGE"
            | "HEXISTS"
            | "HGET"
            | "HGETALL"
            | "HKEYS"
            | "HLEN"
            | "HMGET"
            | "HRANDFIELD"
            | "HSCAN"
            | "HSTRLEN"
            | "HVALS"
            | "INFO"
            | "KEYS"
            | "LCS"
            | "LINDEX"
            | "LLEN"
            | "LPOS"
            | "LRANGE"
            | "MGET"
            | "PEXPIRETIME"
            | "PING"
            | "PTTL"
            | "RANDOMKEY"
            | "SCARD"
            | "SCAN"
            | "SDIFF"
            | "SINTER"
            | "SINTERCARD"
            | "SISMEMBER"
            | "SMEMBERS"
            | "SMISMEMBER"
            | "SRANDMEMBER"
            | "SSCAN"
            | "STRLEN"
            | "SUBSTR"
            | "SUNION"
            | "TIME"
            | "TTL"
            | "TYPE"
            | "UNWATCH"
            | "XINFO"
            | "XLEN"
            | "XPENDING"
            | "XRANGE"
            | "XREAD"
            | "XREVRANGE"
            | "ZCARD"
            | "ZCOUNT"
            | "ZDIFF"
            | "ZINTER"
            | "ZINTERCARD"
            | "ZLEXCOUNT"
            | "ZMSCORE"
            | "ZRANDMEMBER"
            | "ZRANGE"
            | "ZRANGEBYLEX"
            | "ZRANGEBYSCORE"
            | "ZRANK"
            | "ZREVRANGE"
            | "ZREVRANGEBYLEX"
            | "ZREVRANGEBYSCORE"
            | "ZREVRANK"
            | "ZSCAN"
            | "ZSCORE"
            | "ZUNION"
            | "EVAL_RO"
            | "EVALSHA_RO"
            | "FCALL_RO"
    )
}
