//! Every section and key. `config/default.toml` is the reference: purpose, unit and default of each key.
//! It is also the built-in default.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use headroom_actors::kernel::pressure::Level;
use headroom_actors::lazy::PolicyKind;
use headroom_actors::model::SandboxMode;
use headroom_actors::postgres::ResetAfter;

use super::SettingsError;
pub use super::chains::{ChainsSettings, RpcSettings};
use super::log_filter::LogFilter;
pub use super::redis::{RedisRoleSettings, RedisSettings};
use super::secrets::{PostgresUrl, WebhookUrl};
use super::section::{Rules, sections};
pub use super::uploads::UploadSettings;
use super::values::{DurationOrZero, HostNames, LogFormat, Profile, UserName, Workers};

/// The largest size in a pool's settings. A larger number is most likely a typing error.
const POOL_SIZE_MAX: usize = 100_000;

sections! {
    /// All settings.
    pub struct Settings {
        /// The HTTP edge.
        pub server: ServerSettings,
        /// Files that outlive the process.
        pub data: DataSettings,
        /// The memory budget.
        pub memory: MemorySettings,
        /// Models and the processes that run them.
        pub models: ModelSettings,
        /// Logging.
        pub log: LogSettings,
        /// Authentication.
        pub auth: AuthSettings,
        /// PostgreSQL.
        pub postgres: PostgresSettings,
        /// Redis.
        pub redis: RedisSettings,
        /// Uploaded files.
        pub uploads: UploadSettings,
        /// Requests to chains.
        pub rpc: RpcSettings,
        /// The chains.
        pub chains: ChainsSettings,
    }

    /// The HTTP edge.
    pub struct ServerSettings {
        /// What the server is for.
        pub profile: Profile,
        /// The main listener; port 0 selects a free port.
        pub listen: SocketAddr,
        /// The listener of health and metrics; port 0 selects a free port.
        pub admin_listen: SocketAddr,
        /// Names that clients may use for this server, beside addresses and names without a dot.
        pub hosts: Option<HostNames>,
        /// Threads that serve requests.
        pub workers: Workers,
        /// The most open connections of clients; fewer if there are too few file descriptors.
        pub connections_max: NonZeroUsize,
        /// Largest request body.
        pub request_body_max: ByteSize,
        /// Most bytes of all request bodies together.
        pub bodies_in_flight_max: ByteSize,
        /// Most bytes of the tensors of all requests together.
        pub tensors_in_flight_max: ByteSize,
        /// Most bytes of the outputs in all responses together.
        pub answers_in_flight_max: ByteSize,
        /// How long a body waits while others use all of `bodies_in_flight_max`.
        pub body_admission_wait: DurationOrZero,
        /// Longest pause between two chunks of a body.
        pub body_idle_timeout: Duration,
        /// Longest time for a whole body.
        pub body_timeout: Duration,
        /// Longest pause in which a client reads nothing of its response.
        pub answer_idle_timeout: Duration,
        /// Longest time for a client to read a response, from the first blocked write on.
        pub answer_timeout: Duration,
        /// Bytes per second at which a client must send a body or read a response; 0 for no bound.
        pub client_rate_min: ByteSize,
        /// Longest time for a request.
        pub request_deadline: Duration,
        /// How long an idle connection stays open.
        pub keep_alive: Duration,
        /// Longest time for a request head.
        pub client_request_timeout: Duration,
        /// How long a client that is still sending may take to read its last response before the connection is closed.
        /// With zero, it would be reset before the client has read why its request was refused.
        pub client_disconnect_timeout: Duration,
        /// How long the server goes on accepting connections after it was asked to stop.
        pub drain_delay: DurationOrZero,
        /// How long the whole stop may take, `drain_delay` included.
        pub shutdown_deadline: DurationOrZero,
    }

    /// Files that outlive the process.
    pub struct DataSettings {
        /// The folder of these files.
        pub dir: PathBuf,
    }

    /// The memory budget.
    pub struct MemorySettings {
        /// Most memory of the whole process tree; the cgroup's limit if not set.
        pub limit: Option<ByteSize>,
        /// The budget as a share of physical memory, if neither `limit` nor a cgroup limit is set.
        pub physical_share: f64,
        /// How far below the threshold of a level usage must fall before the level ends.
        pub hysteresis: f64,
        /// How long a level lasts at least before a lower one follows.
        pub dwell: DurationOrZero,
        /// Time between two readings of memory.
        pub sample_interval: Duration,
        /// Time between two readings of memory during loads and at every level above normal.
        pub sample_interval_fast: Duration,
        /// If the last reading is older than this, the server is not ready.
        pub stale_after: Duration,
        /// How long an emergency clean-up may take.
        pub emergency_deadline: Duration,
        /// The time after a collection at which the next one is due.
        pub gc_interval: Duration,
        /// Shares of the budget at which a level begins.
        pub levels: LevelSettings,
        /// Alerts to operators.
        pub alerts: AlertSettings,
    }

    /// Alerts to operators.
    pub struct AlertSettings {
        /// The URL that alerts are posted to; none are sent if not set.
        pub webhook_url: Option<WebhookUrl>,
        /// The lowest level that is an alert.
        pub level: Level,
    }

    /// Shares of the memory budget at which a level begins.
    pub struct LevelSettings {
        /// Clean-up that costs users nothing.
        pub elevated: f64,
        /// Idle resources are unloaded.
        pub high: f64,
        /// Emergency clean-up.
        pub critical: f64,
        /// New loads are refused.
        pub exhausted: f64,
    }

    /// Models and the processes that run them.
    pub struct ModelSettings {
        /// The folder that has one folder per model.
        pub dir: PathBuf,
        /// The model host's binary; the one beside this program if not set.
        pub host_binary: Option<PathBuf>,
        /// Fork hosts from one warm process instead of starting a new one for each.
        pub zygote: bool,
        /// How the processes that run models are confined.
        pub sandbox: SandboxMode,
        /// How long an unused model stays loaded.
        pub ttl: Duration,
        /// Longest time for a load.
        pub load_deadline: Duration,
        /// Requests that may wait for one model.
        pub queue_max: NonZeroUsize,
        /// Time between two pings to a host.
        pub heartbeat_interval: Duration,
        /// How long pings may be unanswered before the host is killed.
        pub heartbeat_timeout: Duration,
        /// How long an idle sequence keeps its instance.
        pub sequence_idle: Duration,
        /// Which idle model is evicted first.
        pub eviction: PolicyKind,
        /// Backoff after the first failed load.
        pub failed_load_backoff_min: Duration,
        /// The longest backoff after failed loads.
        pub failed_load_backoff_max: Duration,
        /// Detection of leaks in model processes.
        pub leak: LeakSettings,
    }

    /// Detection of leaks in model processes.
    pub struct LeakSettings {
        /// Look for leaks, and replace processes that leak.
        pub enabled: bool,
        /// Most requests between two measurements.
        pub every_calls: NonZeroUsize,
        /// Longest time in use between two measurements.
        pub every: Duration,
        /// Measurements per decision.
        pub points: NonZeroUsize,
        /// The least growth that counts as a leak, in bytes.
        pub growth_min: ByteSize,
        /// The least growth that counts as a leak, as a share of the first measurement.
        pub growth_share: f64,
    }

    /// Logging.
    pub struct LogSettings {
        /// The format of log events.
        pub format: LogFormat,
        /// The filter of log events.
        pub filter: LogFilter,
    }

    /// Authentication.
    pub struct AuthSettings {
        /// Whether callers must authenticate.
        pub enabled: bool,
    }

    /// PostgreSQL.
    pub struct PostgresSettings {
        /// Its URL. Without one, a private server is started.
        pub url: Option<PostgresUrl>,
        /// Longest time for one statement.
        pub statement_timeout: Duration,
        /// Longest wait of a statement for a lock.
        pub lock_timeout: Duration,
        /// Longest pause between two statements of a transaction.
        pub idle_in_transaction_timeout: Duration,
        /// Statements kept prepared on each connection. 0: connections lead through a pooler in transaction mode.
        pub statements_max: u32,
        /// Which transactions the reset of the session follows.
        pub reset_after: ResetAfter,
        /// Its connections.
        pub pool: PoolSettings,
        /// Its replicas, which serve reads.
        pub replicas: ReplicaSettings,
        /// The private server.
        pub embedded: EmbeddedSettings,
    }

    /// Replicas of the primary, which serve reads.
    pub struct ReplicaSettings {
        /// Their URL. Without one, the primary serves all reads.
        pub url: Option<PostgresUrl>,
        /// How far a replica may be behind the primary.
        pub lag_max: Duration,
        /// Connections to them. Keys that are not set are as in `postgres.pool`.
        pub pool: PoolSettings,
    }

    /// A pool of connections.
    pub struct PoolSettings {
        /// Connections that stay open when idle.
        pub connections_min: NonZeroUsize,
        /// Most connections.
        pub connections_max: NonZeroUsize,
        /// Calls that may wait for a connection.
        pub waiting_max: NonZeroUsize,
        /// Longest time to open a connection.
        pub connect_timeout: Duration,
        /// How long a connection above the minimum may be idle.
        pub idle_timeout: Duration,
        /// Greatest age of a connection.
        pub lifetime: Duration,
        /// How long a connection may be idle before it is checked at its next use.
        pub check_after_idle: DurationOrZero,
        /// How long a caller may hold a connection before the log names it.
        pub leak_after: Duration,
        /// Most shared connections.
        pub shared_max: NonZeroUsize,
        /// Calls in flight on one shared connection.
        pub shared_depth: NonZeroUsize,
    }

    /// A private server, which is started when no URL is set.
    pub struct EmbeddedSettings {
        /// Whether it may be started. If not, calls without a configured URL fail.
        pub enabled: bool,
        /// The folder of its programs. Without it, the usual places are searched.
        pub bin_dir: Option<PathBuf>,
        /// The user that it runs as when this server runs as root.
        pub user: Option<UserName>,
    }
}

impl Settings {
    /// These settings with the values of `newer` for the keys that can change while the server runs.
    pub(crate) fn with_live_keys_of(&self, newer: &Self) -> Self {
        let mut settings = self.clone();
        settings.log.filter = newer.log.filter.clone();
        settings.models.load_deadline = newer.models.load_deadline;
        // Without `..`: each new key must say here whether it can change.
        settings.memory = MemorySettings {
            limit: self.memory.limit,
            physical_share: self.memory.physical_share,
            hysteresis: newer.memory.hysteresis,
            dwell: newer.memory.dwell,
            sample_interval: newer.memory.sample_interval,
            sample_interval_fast: newer.memory.sample_interval_fast,
            stale_after: newer.memory.stale_after,
            emergency_deadline: newer.memory.emergency_deadline,
            gc_interval: newer.memory.gc_interval,
            levels: newer.memory.levels.clone(),
            alerts: self.memory.alerts.clone(),
        };
        settings
    }

    /// Checks the rules over several keys. `rules` has those that are broken already.
    ///
    /// # Errors
    /// All broken rules.
    pub(crate) fn check(&self, mut rules: Rules) -> Result<(), SettingsError> {
        self.server.check(&mut rules);
        self.memory.check(&mut rules);
        self.models.check(&mut rules);
        self.postgres.check(&mut rules);
        self.redis.check(&mut rules);
        self.uploads.check(&mut rules);
        self.rpc.check(&mut rules);
        super::chains::check(&self.chains, &mut rules);
        rules.require(
            !self.auth.enabled,
            "auth.enabled must be false: this version cannot authenticate callers",
        );
        if rules.0.is_empty() {
            return Ok(());
        }
        Err(SettingsError(rules.0))
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
        rules.require(
            self.drain_delay.0.is_zero() || self.drain_delay.0 < self.shutdown_deadline.0,
            "server.drain_delay must be below server.shutdown_deadline",
        );
    }
}

impl MemorySettings {
    fn check(&self, rules: &mut Rules) {
        let levels = &self.levels;
        rules.require(
            levels.elevated < levels.high
                && levels.high < levels.critical
                && levels.critical < levels.exhausted,
            "memory.levels must ascend: elevated < high < critical < exhausted",
        );
        rules.require(
            self.hysteresis < levels.elevated,
            "memory.hysteresis must be below memory.levels.elevated",
        );
        rules.require(
            self.limit.is_none_or(|limit| limit.as_u64() > 0),
            "memory.limit must be above 0",
        );
        rules.require(
            self.sample_interval_fast <= self.sample_interval,
            "memory.sample_interval_fast must not be above memory.sample_interval",
        );
    }
}

impl PostgresSettings {
    fn check(&self, rules: &mut Rules) {
        self.pool.check("postgres.pool", rules);
        if self.replicas.pool != self.pool {
            self.replicas.pool.check("postgres.replicas.pool", rules);
        }
        rules.require(
            self.replicas.url.is_none() || self.url.is_some(),
            "postgres.replicas.url needs postgres.url: the private PostgreSQL has no replicas",
        );
        let statements_max = usize::try_from(self.statements_max);
        rules.require(
            statements_max.is_ok_and(|max| max <= POOL_SIZE_MAX),
            &format!("postgres.statements_max must be at most {POOL_SIZE_MAX}"),
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
    }
}

impl ModelSettings {
    fn check(&self, rules: &mut Rules) {
        rules.require(
            self.heartbeat_interval < self.heartbeat_timeout,
            "models.heartbeat_timeout must be above models.heartbeat_interval",
        );
        rules.require(
            self.failed_load_backoff_min <= self.failed_load_backoff_max,
            "models.failed_load_backoff_min must not be above models.failed_load_backoff_max",
        );
        rules.require(
            (6..=1000).contains(&self.leak.points.get()),
            "models.leak.points must be from 6 to 1000",
        );
    }
}

/// Whether both addresses cannot be bound at the same time.
fn same_socket(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}
