//! The settings of Redis, and the rules that involve several of its keys.

use std::path::PathBuf;

use headroom_actors::redis::Node;

use super::secrets::{RedisUrl, Secret};
use super::section::{Rules, sections};
use super::sections::{EmbeddedSettings, PoolSettings};

sections! {
    /// Redis. Each role has its own settings and connections; roles without a configured server
    /// share the private one.
    pub struct RedisSettings {
        /// The connections of every role, where its own section does not say otherwise.
        pub pool: PoolSettings,
        /// Data that must not be lost.
        pub primary: RedisRoleSettings,
        /// Data that can be computed again.
        pub cache: RedisRoleSettings,
        /// Messages between replicas of the service.
        pub pubsub: RedisRoleSettings,
        /// The private server, for every role without a configured one.
        pub embedded: EmbeddedSettings,
    }

    /// The Redis of one role: a URL, sentinels or a cluster. Without these, a private server is started.
    pub struct RedisRoleSettings {
        /// The URL of a single server.
        pub url: Option<RedisUrl>,
        /// The addresses of some sentinels.
        pub sentinels: Option<Vec<Node>>,
        /// The master's name at the sentinels.
        pub sentinel_master: Option<String>,
        /// The user at the sentinels.
        pub sentinel_username: Option<String>,
        /// The password at the sentinels.
        pub sentinel_password: Option<Secret>,
        /// The addresses of some nodes of a cluster.
        pub cluster: Option<Vec<Node>>,
        /// The user at the master or the cluster.
        pub username: Option<String>,
        /// The password at the master or the cluster.
        pub password: Option<Secret>,
        /// The number of the database at the master.
        pub database: Option<u32>,
        /// Whether to use TLS to sentinels, master or cluster.
        pub tls: bool,
        /// The accepted authorities; those of the operating system when not set.
        pub tls_ca_file: Option<PathBuf>,
        /// Its connections. Keys that are not set are as in `redis.pool`.
        pub pool: PoolSettings,
    }
}

impl RedisSettings {
    pub(super) fn check(&self, rules: &mut Rules) {
        self.pool.check("redis.pool", rules);
        for (role, section) in [
            (&self.primary, "redis.primary"),
            (&self.cache, "redis.cache"),
            (&self.pubsub, "redis.pubsub"),
        ] {
            role.check(section, rules);
            if role.pool != self.pool {
                role.pool.check(&format!("{section}.pool"), rules);
            }
        }
    }
}

impl RedisRoleSettings {
    fn check(&self, section: &str, rules: &mut Rules) {
        let servers = [
            self.url.is_some(),
            self.sentinels.is_some(),
            self.cluster.is_some(),
        ];
        rules.require(
            servers.into_iter().filter(|is_set| *is_set).count() <= 1,
            &format!(
                "{section}.url, {section}.sentinels and {section}.cluster exclude each other; \
                 keep one of them"
            ),
        );
        self.check_sentinels(section, rules);
        self.check_login(section, rules);
        self.check_tls(section, rules);
    }

    fn check_sentinels(&self, section: &str, rules: &mut Rules) {
        rules.require(
            self.sentinels.is_some() == self.sentinel_master.is_some(),
            &format!("{section}.sentinels and {section}.sentinel_master go together"),
        );
        let has_login = self.sentinel_username.is_some() || self.sentinel_password.is_some();
        rules.require(
            self.sentinels.is_some() || !has_login,
            &format!(
                "{section}.sentinel_username and {section}.sentinel_password go with \
                 {section}.sentinels"
            ),
        );
        rules.require(
            self.sentinel_username.is_none() || self.sentinel_password.is_some(),
            &format!("{section}.sentinel_username needs {section}.sentinel_password"),
        );
    }

    fn check_login(&self, section: &str, rules: &mut Rules) {
        let options = [
            ("username", self.username.is_some()),
            ("password", self.password.is_some()),
            ("database", self.database.is_some()),
            ("tls", self.tls),
        ];
        let has_nodes = self.sentinels.is_some() || self.cluster.is_some();
        for (key, is_set) in options {
            rules.require(
                has_nodes || !is_set,
                &format!(
                    "{section}.{key} goes with {section}.sentinels or {section}.cluster; put it into \
                     {section}.url instead"
                ),
            );
        }
        rules.require(
            self.username.is_none() || self.password.is_some(),
            &format!("{section}.username needs {section}.password"),
        );
        rules.require(
            self.cluster.is_none() || self.database.unwrap_or(0) == 0,
            &format!("{section}.database must be 0 with {section}.cluster: a cluster has no other database"),
        );
    }

    fn check_tls(&self, section: &str, rules: &mut Rules) {
        let Some(path) = &self.tls_ca_file else {
            return;
        };
        let url = self.url.as_ref().map(RedisUrl::expose);
        let uses_tls = self.tls || url.is_some_and(|url| url.starts_with("rediss:"));
        rules.require(
            uses_tls,
            &format!(
                "{section}.tls_ca_file needs {section}.tls = true, or {section}.url to begin with \
                 rediss"
            ),
        );
        if let Err(fault) = headroom_actors::redis::check_ca_file(path) {
            let path = path.display();
            rules.require(
                false,
                &format!("{section}.tls_ca_file names {path}, which {fault}"),
            );
        }
    }
}
