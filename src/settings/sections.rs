//! Every section and key. `config/default.toml` is the reference: purpose, unit and default of each key.
//! It is also the built-in default.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::error::Fault;
use super::log_filter::LogFilter;
pub use super::redis::{RedisRoleSettings, RedisSettings};
use super::secrets::{PostgresUrl, WebhookUrl};
use super::section::section;
use super::values::{AlertLevel, EvictionPolicy, LogFormat, Share, UserName, Workers};

/// The largest size in a pool's settings. A larger number is most likely a typing error.
const POOL_SIZE_MAX: usize = 100_000;

section! {
    /// All settings.
    Settings {
        /// The HTTP edge.
        section server: ServerSettings,
        /// Files that outlive the process.
        section data: DataSettings,
        /// The memory budget.
        section memory: MemorySettings,
        /// Models and the processes that run them.
        section models: ModelSettings,
        /// Logging.
        section log: LogSettings,
        /// Authentication.
        section auth: AuthSettings,
        /// PostgreSQL.
        section postgres: PostgresSettings,
        /// Redis.
        section redis: RedisSettings,
    }
}

section! {
    /// The HTTP edge.
    ServerSettings {
        /// The main listener; port 0 selects a free port.
        restart listen: SocketAddr,
        /// The listener of health and metrics; port 0 selects a free port.
        restart admin_listen: SocketAddr,
        /// Threads that serve requests.
        restart workers: Workers,
        /// The most open connections of clients; fewer if there are too few file descriptors.
        restart connections_max: NonZeroUsize,
        /// Largest request body.
        restart request_body_max: ByteSize,
        /// Most bytes of all request bodies together.
        restart bodies_in_flight_max: ByteSize,
        /// Most bytes of the tensors of all requests together.
        restart tensors_in_flight_max: ByteSize,
        /// Most bytes of the outputs in all responses together.
        restart answers_in_flight_max: ByteSize,
        /// How long a body waits while others use all of `bodies_in_flight_max`.
        restart body_admission_wait: Duration,
        /// Longest pause between two chunks of a body.
        restart body_idle_timeout: Duration,
        /// Longest time for a whole body.
        restart body_timeout: Duration,
        /// Longest pause in which a client reads nothing of its response.
        restart answer_idle_timeout: Duration,
        /// Longest time for a client to read a response, from the first blocked write on.
        restart answer_timeout: Duration,
        /// Bytes per second at which a client must send a body or read a response; 0 for no bound.
        restart client_rate_min: ByteSize,
        /// Longest time for a request.
        restart request_deadline: Duration,
        /// How long an idle connection stays open.
        restart keep_alive: Duration,
        /// Longest time for a request head.
        restart client_request_timeout: Duration,
        /// How long a client may take to read its last response before the connection is closed.
        restart client_disconnect_timeout: Duration,
        /// How long requests in flight may take after the server was asked to stop.
        restart shutdown_deadline: Duration,
    }
}

section! {
    /// Files that outlive the process.
    DataSettings {
        /// The folder of these files.
        restart dir: PathBuf,
    }
}

section! {
    /// The memory budget.
    MemorySettings {
        /// Most memory of the whole process tree; the cgroup's limit if not set.
        restart limit: Option<ByteSize>,
        /// The budget as a share of physical memory, if neither `limit` nor a cgroup limit is set.
        restart physical_share: Share,
        /// How far below the threshold of a level usage must fall before the level ends.
        live hysteresis: Share,
        /// How long a level lasts at least before a lower one follows.
        live dwell: Duration,
        /// Time between two readings of memory.
        live sample_interval: Duration,
        /// Time between two readings of memory during loads and at every level above normal.
        live sample_interval_fast: Duration,
        /// If the last reading is older than this, the server is not ready.
        live stale_after: Duration,
        /// How long an emergency clean-up may take.
        live emergency_deadline: Duration,
        /// The time after a collection at which the next one is due.
        live gc_interval: Duration,
        /// Shares of the budget at which a level begins.
        section levels: LevelSettings,
        /// Alerts to operators.
        section alerts: AlertSettings,
    }
}

section! {
    /// Alerts to operators.
    AlertSettings {
        /// The URL that alerts are posted to; none are sent if not set.
        restart webhook_url: Option<WebhookUrl>,
        /// The lowest level that is an alert.
        restart level: AlertLevel,
    }
}

section! {
    /// Shares of the memory budget at which a level begins.
    LevelSettings {
        /// Clean-up that costs users nothing.
        live elevated: Share,
        /// Idle resources are unloaded.
        live high: Share,
        /// Emergency clean-up.
        live critical: Share,
        /// New loads are refused.
        live exhausted: Share,
    }
}

section! {
    /// Models and the processes that run them.
    ModelSettings {
        /// The folder that has one folder per model.
        restart dir: PathBuf,
        /// The model host's binary; the one beside this program if not set.
        restart host_binary: Option<PathBuf>,
        /// Fork hosts from one warm process instead of starting a new one for each.
        restart zygote: bool,
        /// How long an unused model stays loaded.
        restart ttl: Duration,
        /// Longest time for a load.
        live load_deadline: Duration,
        /// Requests that may wait for one model.
        restart queue_max: NonZeroUsize,
        /// Time between two pings to a host.
        restart heartbeat_interval: Duration,
        /// How long pings may be unanswered before the host is killed.
        restart heartbeat_timeout: Duration,
        /// How long an idle sequence keeps its instance.
        restart sequence_idle: Duration,
        /// Which idle model is evicted first.
        restart eviction: EvictionPolicy,
        /// Backoff after the first failed load.
        restart failed_load_backoff_min: Duration,
        /// The longest backoff after failed loads.
        restart failed_load_backoff_max: Duration,
        /// Detection of leaks in model processes.
        section leak: LeakSettings,
    }
}

section! {
    /// Detection of leaks in model processes.
    LeakSettings {
        /// Look for leaks, and replace processes that leak.
        restart enabled: bool,
        /// Most requests between two measurements.
        restart every_calls: NonZeroUsize,
        /// Longest time in use between two measurements.
        restart every: Duration,
        /// Measurements per decision.
        restart points: NonZeroUsize,
        /// The least growth that counts as a leak, in bytes.
        restart growth_min: ByteSize,
        /// The least growth that counts as a leak, as a share of the first measurement.
        restart growth_share: Share,
    }
}

section! {
    /// Logging.
    LogSettings {
        /// The format of log events.
        restart format: LogFormat,
        /// The filter of log events.
        live filter: LogFilter,
    }
}

section! {
    /// Authentication.
    AuthSettings {
        /// Whether callers must authenticate.
        restart enabled: bool,
    }
}

section! {
    /// PostgreSQL.
    PostgresSettings {
        /// Its URL. Without one, a private server is started.
        restart url: Option<PostgresUrl>,
        /// Longest time for one statement.
        restart statement_timeout: Duration,
        /// Longest wait of a statement for a lock.
        restart lock_timeout: Duration,
        /// Longest pause between two statements of a transaction.
        restart idle_in_transaction_timeout: Duration,
        /// Its connections.
        section pool: PoolSettings,
        /// Its replicas, which serve reads.
        section replicas: ReplicaSettings,
        /// The private server.
        section embedded: EmbeddedSettings,
    }
}

section! {
    /// Replicas of the primary, which serve reads.
    ReplicaSettings {
        /// Their URL. Without one, the primary serves all reads.
        restart url: Option<PostgresUrl>,
        /// How far a replica may be behind the primary.
        restart lag_max: Duration,
        /// Connections to them. Keys that are not set are as in `postgres.pool`.
        section pool: PoolSettings,
    }
}

section! {
    /// A pool of connections.
    PoolSettings {
        /// Connections that stay open when idle.
        restart connections_min: NonZeroUsize,
        /// Most connections.
        restart connections_max: NonZeroUsize,
        /// Calls that may wait for a connection.
        restart waiting_max: NonZeroUsize,
        /// Longest time to open a connection.
        restart connect_timeout: Duration,
        /// How long a connection above the minimum may be idle.
        restart idle_timeout: Duration,
        /// Greatest age of a connection.
        restart lifetime: Duration,
        /// How long a connection may be idle before it is checked at its next use.
        restart check_after_idle: Duration,
        /// How long a caller may hold a connection before the log names it.
        restart leak_after: Duration,
        /// Most shared connections.
        restart shared_max: NonZeroUsize,
        /// Calls in flight on one shared connection.
        restart shared_depth: NonZeroUsize,
    }
}

section! {
    /// A private server, which is started when no URL is set.
    EmbeddedSettings {
        /// Whether it may be started. If not, calls without a configured URL fail.
        restart enabled: bool,
        /// The folder of its programs. Without it, the usual places are searched.
        restart bin_dir: Option<PathBuf>,
        /// The user that it runs as when this server runs as root.
        restart user: Option<UserName>,
    }
}

impl Settings {
    /// Checks what the types cannot: rules over several keys, and durations that must not be zero.
    pub(crate) fn check(&self) -> Vec<Fault> {
        let mut rules = Rules(Vec::new());
        self.server.check(&mut rules);
        self.memory.check(&mut rules);
        self.models.check(&mut rules);
        self.postgres.check(&mut rules);
        self.redis.check(&mut rules);
        rules.require(
            !self.auth.enabled,
            "auth.enabled must be false: this version cannot authenticate callers",
        );
        rules.0
    }
}

impl ServerSettings {
    fn check(&self, rules: &mut Rules) {
        rules.require(
            !same_socket(self.listen, self.admin_listen),
            "server.listen and server.admin_listen must differ",
        );
        rules.require(
            self.request_body_max.as_u64() > 0,
            "server.request_body_max must be above 0",
        );
        rules.require(
            self.request_body_max <= self.bodies_in_flight_max,
            "server.request_body_max must not be above server.bodies_in_flight_max",
        );
        rules.require(
            self.bodies_in_flight_max <= ByteSize::tib(1),
            "server.bodies_in_flight_max must be at most 1TiB",
        );
        rules.require(
            self.tensors_in_flight_max.as_u64() > 0 && self.answers_in_flight_max.as_u64() > 0,
            "server.tensors_in_flight_max and server.answers_in_flight_max must be above 0",
        );
        rules.positive("server.body_idle_timeout", self.body_idle_timeout);
        rules.positive("server.body_timeout", self.body_timeout);
        rules.positive("server.answer_idle_timeout", self.answer_idle_timeout);
        rules.positive("server.answer_timeout", self.answer_timeout);
        rules.positive("server.request_deadline", self.request_deadline);
        rules.positive("server.keep_alive", self.keep_alive);
        rules.positive("server.client_request_timeout", self.client_request_timeout);
        // With zero, a connection would be reset before the client has read why its request was
        // refused.
        rules.positive(
            "server.client_disconnect_timeout",
            self.client_disconnect_timeout,
        );
    }
}

impl MemorySettings {
    fn check(&self, rules: &mut Rules) {
        let levels = [
            self.levels.elevated,
            self.levels.high,
            self.levels.critical,
            self.levels.exhausted,
        ]
        .map(Share::get);
        rules.require(
            levels.is_sorted_by(|lower, upper| lower < upper),
            "memory.levels must ascend: elevated < high < critical < exhausted",
        );
        rules.require(
            self.hysteresis.get() < levels[0],
            "memory.hysteresis must be below memory.levels.elevated",
        );
        rules.require(
            self.limit.is_none_or(|limit| limit.as_u64() > 0),
            "memory.limit must be above 0",
        );
        rules.positive("memory.sample_interval", self.sample_interval);
        rules.positive("memory.sample_interval_fast", self.sample_interval_fast);
        rules.positive("memory.stale_after", self.stale_after);
        rules.positive("memory.emergency_deadline", self.emergency_deadline);
        rules.positive("memory.gc_interval", self.gc_interval);
        rules.require(
            self.sample_interval_fast <= self.sample_interval,
            "memory.sample_interval_fast must not be above memory.sample_interval",
        );
    }
}

impl PostgresSettings {
    fn check(&self, rules: &mut Rules) {
        rules.positive("postgres.statement_timeout", self.statement_timeout);
        rules.positive("postgres.lock_timeout", self.lock_timeout);
        rules.positive(
            "postgres.idle_in_transaction_timeout",
            self.idle_in_transaction_timeout,
        );
        self.pool.check("postgres.pool", rules);
        if self.replicas.pool != self.pool {
            self.replicas.pool.check("postgres.replicas.pool", rules);
        }
        rules.positive("postgres.replicas.lag_max", self.replicas.lag_max);
        rules.require(
            self.replicas.url.is_none() || self.url.is_some(),
            "postgres.replicas.url needs postgres.url: the private PostgreSQL has no replicas",
        );
    }
}

impl PoolSettings {
    pub(super) fn check(&self, section: &str, rules: &mut Rules) {
        let is_in_order = self.connections_min <= self.connections_max;
        rules.require(
            is_in_order,
            &format!("{section}.connections_min must not be above {section}.connections_max"),
        );
        rules.require(
            self.shared_max <= self.connections_max,
            &format!("{section}.shared_max must not be above {section}.connections_max"),
        );
        for (key, size) in [
            ("connections_max", self.connections_max),
            ("waiting_max", self.waiting_max),
            ("shared_depth", self.shared_depth),
        ] {
            rules.require(
                size.get() <= POOL_SIZE_MAX,
                &format!("{section}.{key} must be at most {POOL_SIZE_MAX}"),
            );
        }
        for (key, duration) in [
            ("connect_timeout", self.connect_timeout),
            ("idle_timeout", self.idle_timeout),
            ("lifetime", self.lifetime),
            ("leak_after", self.leak_after),
        ] {
            rules.positive(&format!("{section}.{key}"), duration);
        }
    }
}

impl ModelSettings {
    fn check(&self, rules: &mut Rules) {
        rules.positive("models.ttl", self.ttl);
        rules.positive("models.load_deadline", self.load_deadline);
        rules.positive("models.heartbeat_interval", self.heartbeat_interval);
        rules.positive("models.sequence_idle", self.sequence_idle);
        rules.require(
            self.heartbeat_interval < self.heartbeat_timeout,
            "models.heartbeat_timeout must be above models.heartbeat_interval",
        );
        rules.positive(
            "models.failed_load_backoff_min",
            self.failed_load_backoff_min,
        );
        rules.require(
            self.failed_load_backoff_min <= self.failed_load_backoff_max,
            "models.failed_load_backoff_min must not be above models.failed_load_backoff_max",
        );
        rules.positive("models.leak.every", self.leak.every);
        rules.require(
            (6..=1000).contains(&self.leak.points.get()),
            "models.leak.points must be from 6 to 1000",
        );
    }
}

/// Collects all violated rules.
pub(super) struct Rules(Vec<Fault>);

impl Rules {
    pub(super) fn require(&mut self, holds: bool, rule: &str) {
        if !holds {
            self.0.push(Fault::Rule(rule.into()));
        }
    }

    fn positive(&mut self, key: &str, duration: Duration) {
        self.require(!duration.is_zero(), &format!("{key} must be above 0"));
    }
}

/// Whether both addresses cannot be bound at the same time.
fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
