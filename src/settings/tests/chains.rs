//! The settings of chains, which have names that the operator gives.

use std::time::Duration;

use super::*;

const NODE: &str = "[chains.ethereum.providers.node]\nurl = 'https://user:hunter2@node.example/hunter3?key=hunter4'\n";

#[test]
fn known_chains_need_only_a_provider() {
    let settings = load_text(NODE, &[]).unwrap().settings;
    assert_eq!(settings.chains.0.keys().collect::<Vec<_>>(), ["ethereum"]);
    let chain = &settings.chains.0["ethereum"];
    assert_eq!(chain.id.get(), 1);
    assert_eq!(chain.block_time, Duration::from_secs(12));
    assert_eq!(chain.aliases.as_ref().unwrap().names(), ["eth", "mainnet"]);
    assert_eq!(chain.serving, settings.rpc.serving);
    let node = &chain.providers.0["node"];
    assert_eq!(*node.usage, settings.rpc.provider);
    assert!(node.headers.0.is_empty());
    // Without a provider there is no chain.
    assert!(defaults().chains.0.is_empty());
}

#[test]
fn all_known_chains_can_be_served_together() {
    let catalogue = fs::read_to_string(repository("config/chains.toml")).unwrap();
    let table: toml::Table = toml::from_str(&catalogue).unwrap();
    let text: String = table
        .keys()
        .map(|name| format!("[chains.{name}.providers.a]\nurl = 'http://node'\n"))
        .collect();
    let settings = load_text(&text, &[]).unwrap().settings;
    assert_eq!(settings.chains.0.len(), table.len());
    assert!(settings.chains.0.len() >= 17);
    assert!(settings.chains.0.values().all(|it| it.explorer.is_some()));
}

#[test]
fn a_list_and_sections_are_two_ways_to_name_providers() {
    let list = "[[chains.base.providers]]\nname = 'b'\nurl = 'http://b'\nheaders.x-key = 'k'\n\
                [[chains.base.providers]]\nname = 'a'\nurl = 'http://a'\nrate_max = 5\n";
    let sections = "[chains.base.providers.a]\nurl = 'http://a'\nrate_max = 5\n\
                    [chains.base.providers.b]\nurl = 'http://b'\nheaders = { x-key = 'k' }\n";
    let list = load_text(list, &[]).unwrap().settings;
    assert_eq!(list, load_text(sections, &[]).unwrap().settings);
    let settings = &list.chains.0["base"].providers.0;
    assert_eq!(settings["b"].headers.0["x-key"].expose(), "k");
    assert_eq!(settings["a"].usage.rate_max.unwrap().0, 5.0);
}

#[test]
fn layers_change_single_keys_of_a_chain() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "http://file\n").unwrap();
    let settings = load_text(
        "[rpc]\nttl = '5m'\n[rpc.selection]\nlag_max = 3\n\
         [chains.base-sepolia]\nblock_time = '1s'\nttl = ''\nselection.lag_max = 4\n\
         providers = [{ name = 'my-node', url = 'http://toml', cost = 2 }]\n\
         [chains.optimism.providers.a]\nurl = 'http://a'\n",
        &[
            (
                "HEADROOM__CHAINS__BASE_SEPOLIA__PROVIDERS__MY_NODE__URL",
                "http://env",
            ),
            (
                "HEADROOM__CHAINS__BASE_SEPOLIA__PROVIDERS__MY_NODE__HEADERS__X_KEY",
                "k",
            ),
            (
                "HEADROOM__CHAINS__FUJI__PROVIDERS__A__URL_FILE",
                key.to_str().unwrap(),
            ),
            ("HEADROOM__CHAINS__FUJI__FINALITY_DEPTH", "7"),
        ],
    )
    .unwrap()
    .settings;
    let chain = &settings.chains.0["base-sepolia"];
    assert_eq!((chain.id.get(), chain.serving.ttl), (84532, None));
    assert_eq!(chain.block_time, Duration::from_secs(1));
    assert_eq!(chain.serving.selection.lag_max.get(), 4);
    let node = &chain.providers.0["my-node"];
    assert_eq!((node.url.expose(), node.usage.cost.0), ("http://env", 2.0));
    assert_eq!(node.headers.0["x-key"].expose(), "k");
    let fuji = &settings.chains.0["fuji"];
    assert_eq!(fuji.providers.0["a"].url.expose(), "http://file");
    assert_eq!(
        (fuji.finality_depth, fuji.serving.selection.lag_max.get()),
        (7, 3)
    );
    let optimism = &settings.chains.0["optimism"];
    assert_eq!(optimism.serving.ttl, Some(Duration::from_secs(300)));
}

#[test]
fn an_own_chain_says_what_it_is() {
    let own = "[chains.dev]\nid = 31337\nblock_time = '1s'\nfinality_depth = 0\n\
               providers.a.url = 'http://127.0.0.1:8545'\n";
    let settings = load_text(own, &[]).unwrap().settings;
    assert_eq!(settings.chains.0["dev"].id.get(), 31337);
    refuses(
        "chains.etherum.providers.a.url = 'http://a'",
        &[],
        "chains.etherum is no known chain; a chain of your own needs id, block_time and finality_depth; did you mean \
         chains.ethereum?",
    );
    refuses(
        "chains.dev = { id = 5, block_time = '1s', finality_depth = 1 }",
        &[],
        "chains.dev has no provider; add chains.dev.providers.NAME.url, or remove it",
    );
    refuses(
        "chains.dev = { id = 5, providers.a.url = 'http://a' }",
        &[],
        "chains.dev.block_time is not set; write the time between two blocks, such as block_time = \"2s\"\n\
         chains.dev.finality_depth is not set; write after how many further blocks a block is final, such as \
         finality_depth = 64",
    );
}

#[test]
fn what_is_wrong_with_a_chain_is_said_without_its_secrets() {
    let of_node = |line: &str| format!("{NODE}{line}");
    let cases = [
        (
            "[chains.ethereum.providers.node]\nurl = 'node.example/hunter2'".to_owned(),
            "base.toml: chains.ethereum.providers.node.url must be a URL such as \"https://host/key\"; begin it with http:// \
             or https://",
        ),
        (
            of_node("ws_url = 'https://hunter2'"),
            "base.toml: chains.ethereum.providers.node.ws_url must be a URL such as \"wss://host/key\"; begin it with ws:// \
             or wss://",
        ),
        (
            of_node("headers.x-key = \"hunter2\\n\""),
            "chains.ethereum.providers.node.headers.x-key must be made of printable ASCII characters",
        ),
        (
            of_node("urll = 'hunter2'"),
            "base.toml: unknown key chains.ethereum.providers.node.urll; did you mean chains.ethereum.providers.node.url?",
        ),
        (
            "[chains.ethereum.providers.My_Node]\nurl = 'http://hunter2'".to_owned(),
            "base.toml: chains.ethereum.providers.My_Node: the name \"My_Node\" must be made of lower-case letters, \
             digits and '-', at most 64",
        ),
        (
            "[[chains.ethereum.providers]]\nurl = 'http://hunter2'".to_owned(),
            "base.toml: each entry of chains.ethereum.providers needs a name",
        ),
        (
            "[[chains.ethereum.providers]]\nname = 'A'\nurl = 'http://hunter2'".to_owned(),
            "base.toml: chains.ethereum.providers: name = \"A\" must be made of lower-case letters, digits and '-', at most \
             64",
        ),
        (
            "[[chains.ethereum.providers]]\nname = 'a'\nurl = 'http://a'\n\
             [[chains.ethereum.providers]]\nname = 'a'\nurl = 'http://a'"
                .to_owned(),
            "base.toml: chains.ethereum.providers has a twice",
        ),
        (
            of_node("[chains.base]\naliases = ['eth']\nproviders.a.url = 'http://a'"),
            "chains.base and chains.ethereum must not both be called eth",
        ),
        (
            of_node("[chains.base]\nid = 1\nproviders.a.url = 'http://a'"),
            "chains.base and chains.ethereum must not both be called 1",
        ),
        (
            of_node(
                "[chains.5]\nid = 5\nblock_time = '1s'\nfinality_depth = 1\nproviders.a.url = 'http://a'",
            ),
            "chains.5 and chains.5 must not both be called 5\nchains.5: the name of a chain needs a letter: numbers are ids",
        ),
        (
            of_node("[chains.ethereum]\nquorum = ['eth_call = 2 of 3']"),
            "chains.ethereum.quorum: eth_call needs 2 equal answers, and the chain has 1 providers",
        ),
        (
            of_node(
                "[chains.base.providers]\na.url = 'http://a'\nb.url = 'http://b'\n[chains.base]\nquorum = ['eth_sendRawTransaction = 2 of 2']",
            ),
            "chains.base.quorum: eth_sendRawTransaction can have none; only methods that read can, but for eth_blockNumber",
        ),
        (
            "rpc.quorum = ['eth_call = 3 of 2']".to_owned(),
            "base.toml: rpc.quorum = [\"eth_call = 3 of 2\"] must be a list such as [\"eth_getTransactionReceipt = 2 of 3\"]: \
             of 3 providers that are asked, 2 must give the same answer; at most 16 are asked",
        ),
        (
            "rpc.request_max = 0".to_owned(),
            "rpc.request_max must be above 0",
        ),
        (
            "rpc.batch_max = 5\nrpc.client_calls_max = 4".to_owned(),
            "rpc.batch_max must not be above rpc.client_calls_max: such a batch would never be served",
        ),
        (
            "rpc.batch_max = 10001\nrpc.client_calls_max = 20000".to_owned(),
            "rpc.batch_max must be at most 10000",
        ),
        (
            of_node("[chains.ethereum.selection]\nattempts_max = 21"),
            "chains.ethereum.selection.attempts_max must be at most 20",
        ),
        (
            "[rpc.selection]\nlatency_weight = -1".to_owned(),
            "base.toml: rpc.selection.latency_weight = -1 must be a number from 0 to 1000",
        ),
    ];
    for (text, said) in cases {
        refuses(&text, &[], said);
    }
    let file = load_text(
        "",
        &[("HEADROOM__CHAINS__BASE__PROVIDERS__A__URL_FILE", "/none")],
    );
    let fault = file.unwrap_err();
    assert!(fault.starts_with("environment variable HEADROOM__CHAINS__BASE__PROVIDERS__A__URL_FILE: chains.base.providers.a.url_file names /none"), "{fault}");
}

#[test]
fn only_chains_that_are_served_are_shown_and_their_secrets_never() {
    let text = format!("{NODE}ws_url = 'ws://h/hunter5'\nheaders.x-key = 'hunter6'\n");
    let loaded = load_text(&text, &[]).unwrap();
    let shown = loaded.to_string();
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(!format!("{loaded:?}").contains("hunter"));
    for line in [
        "[chains.ethereum]",
        "[chains.ethereum.providers.node.headers]",
        "ttl = \"1h\" # as rpc.ttl",
        "# logs_range_max is not set",
    ] {
        assert!(shown.lines().any(|it| it == line), "{line}: {shown}");
    }
    assert!(!shown.contains("[chains.base]"), "{shown}");
    // What is shown can be read again.
    let again = shown
        .replace("\"***\"", "\"http://node\"")
        .replace("ws_url = \"http", "ws_url = \"ws");
    let again = load_text(&again, &[]).unwrap_or_else(|fault| panic!("{fault}\n{again}"));
    assert_eq!(again.settings.chains.0.len(), 1);
}

#[test]
fn changes_of_chains_need_a_restart() {
    let changes = |before: &str, after: &str| {
        let before = load_text(before, &[]).unwrap().settings;
        let mut changes = Vec::new();
        before.changes(&load_text(after, &[]).unwrap().settings, "", &mut changes);
        changes
    };
    assert_eq!(changes("", NODE), ["chains.ethereum"]);
    assert_eq!(changes(NODE, ""), ["chains.ethereum"]);
    let cheaper = format!("{NODE}cost = 0.5\n");
    let expected = ["chains.ethereum.providers.node.cost"];
    assert_eq!(changes(NODE, &cheaper), expected);
}
