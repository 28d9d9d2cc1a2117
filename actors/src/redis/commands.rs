//! What the pool must know of Redis' commands, by their first word.

use deadpool_redis::redis::{Arg, Cmd};

use super::error::Error;

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

/// What to use instead of a command that does not belong on a connection of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// It may block, or opens or ends a transaction.
    Lease,
    PubSub,
    /// It would change the connection for all later users, or end it.
    Nothing(&'static str),
}

const SETTINGS: Instead = Instead::Nothing("what it sets is set for the whole pool");
const DRIVER: Instead = Instead::Nothing("the driver sends it where it is needed");
const NEVER: Instead = Instead::Nothing("it takes the connection away from the pool");

/// The commands that are refused, in alphabetical order.
const REFUSED: &[(&str, Instead)] = &[
    ("ASKING", DRIVER),
    ("AUTH", SETTINGS),
    ("BLMOVE", Instead::Lease),
    ("BLMPOP", Instead::Lease),
    ("BLPOP", Instead::Lease),
    ("BRPOP", Instead::Lease),
    ("BRPOPLPUSH", Instead::Lease),
    ("BZMPOP", Instead::Lease),
    ("BZPOPMAX", Instead::Lease),
    ("BZPOPMIN", Instead::Lease),
    ("DISCARD", Instead::Lease),
    ("EXEC", Instead::Lease),
    ("HELLO", SETTINGS),
    ("MONITOR", NEVER),
    ("MULTI", Instead::Lease),
    ("PSUBSCRIBE", Instead::PubSub),
    ("PSYNC", NEVER),
    ("PUNSUBSCRIBE", Instead::PubSub),
    ("QUIT", NEVER),
    ("READONLY", DRIVER),
    ("READWRITE", DRIVER),
    ("REPLCONF", NEVER),
    ("RESET", SETTINGS),
    ("SELECT", SETTINGS),
    ("SSUBSCRIBE", Instead::PubSub),
    ("SUBSCRIBE", Instead::PubSub),
    ("SUNSUBSCRIBE", Instead::PubSub),
    ("SYNC", NEVER),
    ("UNSUBSCRIBE", Instead::PubSub),
    ("WAIT", Instead::Lease),
    ("WAITAOF", Instead::Lease),
    ("WATCH", Instead::Lease),
];

/// The same for commands whose second word decides.
const REFUSED_BY_SECOND_WORD: &[(&str, &str, Instead)] = &[
    ("CLIENT CACHING", "CACHING", SETTINGS),
    ("CLIENT NO-EVICT", "NO-EVICT", SETTINGS),
    ("CLIENT NO-TOUCH", "NO-TOUCH", SETTINGS),
    ("CLIENT REPLY", "REPLY", SETTINGS),
    ("CLIENT SETINFO", "SETINFO", SETTINGS),
    ("CLIENT SETNAME", "SETNAME", SETTINGS),
    ("CLIENT TRACKING", "TRACKING", SETTINGS),
];

/// The name of the refused command, and what to use instead. The name never comes from the caller,
/// whose text could hold a secret.
fn refusal(command: &Cmd) -> Option<(&'static str, Instead)> {
    let word = Word::of(command, 0);
    match word.as_str() {
        "XREAD" => blocks(command).then_some(("XREAD BLOCK", Instead::Lease)),
        "XREADGROUP" => blocks(command).then_some(("XREADGROUP BLOCK", Instead::Lease)),
        "CLIENT" => {
            let second = Word::of(command, 1);
            let mut table = REFUSED_BY_SECOND_WORD.iter();
            let found = table.find(|(_, word, _)| *word == second.as_str());
            found.map(|(name, _, instead)| (*name, *instead))
        }
        word => {
            let index = REFUSED.binary_search_by(|(name, _)| (*name).cmp(word));
            index.ok().and_then(|index| REFUSED.get(index).copied())
        }
    }
}

/// Whether a read of streams has the option `BLOCK`. It stands before the names of the streams.
fn blocks(command: &Cmd) -> bool {
    let count = command.args_iter().len();
    let mut words = (1..count).map(|index| Word::of(command, index));
    words
        .find(|word| matches!(word.as_str(), "BLOCK" | "STREAMS"))
        .is_some_and(|word| word.as_str() == "BLOCK")
}

/// Refuses what does not belong on a connection that other callers use at the same time.
pub(super) fn check_shared(command: &Cmd) -> Result<(), Error> {
    let Some((command, instead)) = refusal(command) else {
        return Ok(());
    };
    let instead = match instead {
        Instead::Lease => "use Redis::lease, or an atomic pipeline",
        Instead::PubSub => "use PubSub",
        Instead::Nothing(why) => why,
    };
    Err(Error::Unsupported { command, instead })
}

/// Refuses what does not belong on a connection that one caller uses alone for a while.
pub(super) fn check_leased(command: &Cmd) -> Result<(), Error> {
    match refusal(command) {
        Some((_, Instead::Lease)) => Ok(()),
        _ => check_shared(command),
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

/// Whether the command is `PING`, with which the driver checks connections.
pub(super) fn is_ping(command: &Cmd) -> bool {
    Word::of(command, 0).as_str() == "PING"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::tests::words;

    #[test]
    fn the_table_is_in_order() {
        assert!(REFUSED.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn what_affects_other_callers_is_refused_by_name() {
        for (text, on_lease) in [
            ("blpop list 0", true),
            ("BZPOPMIN set 1", true),
            ("WAIT 1 100", true),
            ("Watch key", true),
            ("MULTI", true),
            ("XREAD COUNT 1 BLOCK 0 STREAMS s $", true),
            ("XREADGROUP GROUP g c block 0 STREAMS s >", true),
            ("SELECT 3", false),
            ("subscribe channel", false),
            ("HELLO 2", false),
            ("RESET", false),
            ("CLIENT REPLY OFF", false),
            ("client tracking on", false),
            ("QUIT", false),
        ] {
            let command = words(text);
            let error = check_shared(&command).unwrap_err();
            assert!(error.is_undone(), "{text}");
            assert!(!error.to_string().contains("key"), "{error}");
            assert_eq!(check_leased(&command).is_ok(), on_lease, "{text}");
        }
        for text in [
            "GET key",
            "LPOP list",
            "XREAD COUNT 1 STREAMS BLOCK 0",
            "CLIENT LIST",
            "EVAL text 0",
            "PUBLISH channel text",
            "A-VERY-LONG-WORD-THAT-IS-NO-COMMAND",
        ] {
            assert!(check_shared(&words(text)).is_ok(), "{text}");
            assert!(check_leased(&words(text)).is_ok(), "{text}");
        }
        assert!(check_shared(&Cmd::new()).is_ok());
    }
}
