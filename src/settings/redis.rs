//! The keys of Redis, and which of them go together.

use std::path::PathBuf;

use super::secrets::{RedisUrl, Secret};
use super::section::section;
use super::sections::{EmbeddedSettings, PoolSettings, Rules};
use super::values::{Name, Nodes};

section! {
    /// Redis, one pool per purpose.
    RedisSettings {
        /// Facts shared by replicas.
        section primary: RedisRoleSettings,
        /// What may be lost.
        section cache: RedisRoleSettings,
        /// Messages between replicas.
        section pubsub: RedisRoleSettings,
        /// The private one, for every purpose that names no other.
        section embedded: EmbeddedSettings,
    }
}

section! {
    /// Redis for one purpose: a URL, sentinels or a cluster; a private one when none of them is set.
    RedisRoleSettings {
        /// Where it is, if it is one server.
        restart url: Option<RedisUrl>,
        /// Those who know which server is the master.
        restart sentinels: Option<Nodes>,
        /// What they call it.
        restart sentinel_master: Option<Name>,
        /// Who we are to them.
        restart sentinel_username: Option<Name>,
        /// Their password.
        restart sentinel_password: Option<Secret>,
        /// Some nodes of a cluster.
        restart cluster: Option<Nodes>,
        /// Who we are to the master or the cluster.
        restart username: Option<Name>,
        /// Its password.
        restart password: Option<Secret>,
        /// The number of the database at the master.
        restart database: Option<u32>,
        /// Whether the channel to sentinels, master or cluster is secured.
        restart tls: bool,
        /// Whose certificates are believed; those that the system believes when not set.
        restart tls_ca_file: Option<PathBuf>,
        /// Its connections.
        section pool: PoolSettings,
    }
}

impl RedisSettings {
    pub(super) fn check(&self, rules: &mut Rules) {
        self.primary.check("redis.primary", rules);
        self.cache.check("redis.cache", rules);
        self.pubsub.check("redis.pubsub", rules);
    }
}

impl RedisRoleSettings {
    fn check(&self, section: &str, rules: &mut Rules) {
        let named = [
            self.url.is_some(),
            self.sentinels.is_some(),
            self.cluster.is_some(),
        ];
        rules.require(
            named.into_iter().filter(|is_set| *is_set).count() <= 1,
            &format!(
                "{section}.url, {section}.sentinels and {section}.cluster exclude each other; \
                 keep one of them"
            ),
        );
        self.check_sentinels(section, rules);
        self.check_access(section, rules);
        self.check_tls(section, rules);
        self.pool.check(&format!("{section}.pool"), rules);
    }

    fn check_sentinels(&self, section: &str, rules: &mut Rules) {
        rules.require(
            self.sentinels.is_some() == self.sentinel_master.is_some(),
            &format!("{section}.sentinels and {section}.sentinel_master go together"),
        );
        let login = self.sentinel_username.is_some() || self.sentinel_password.is_some();
        rules.require(
            self.sentinels.is_some() || !login,
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

    fn check_access(&self, section: &str, rules: &mut Rules) {
        let given = [
            ("username", self.username.is_some()),
            ("password", self.password.is_some()),
            ("database", self.database.is_some()),
            ("tls", self.tls),
        ];
        let has_nodes = self.sentinels.is_some() || self.cluster.is_some();
        for (key, is_set) in given {
            rules.require(
                has_nodes || !is_set,
                &format!(
                    "{section}.{key} goes with {section}.sentinels or {section}.cluster; with \
                     {section}.url it is a part of that"
                ),
            );
        }
        rules.require(
            self.username.is_none() || self.password.is_some(),
            &format!("{section}.username needs {section}.password"),
        );
        rules.require(
            self.cluster.is_none() || self.database.unwrap_or(0) == 0,
            &format!("{section}.database must be 0 with {section}.cluster, which has no other"),
        );
    }

    fn check_tls(&self, section: &str, rules: &mut Rules) {
        let Some(path) = &self.tls_ca_file else {
            return;
        };
        let url = self.url.as_ref().map(RedisUrl::expose);
        let is_secured = self.tls || url.is_some_and(|url| url.starts_with("rediss:"));
        rules.require(
            is_secured,
            &format!(
                "{section}.tls_ca_file needs {section}.tls = true, or {section}.url to begin with \
                 rediss"
            ),
        );
        if let Err(fault) = headroom_actors::redis::check_authorities_in(path) {
            let path = path.display();
            rules.require(
                false,
                &format!("{section}.tls_ca_file names {path}, which {fault}"),
            );
        }
    }
}
