//! A private PostgreSQL: a cluster of our own in the data folder, for when no other is configured.
//!
//! The cluster is laid out in a folder beside its place and renamed when it is complete, so that a
//! kill half-way leaves nothing that is taken for one. Its settings are files of ours, written anew
//! before each start and kept outside of it. What is acknowledged is on the disk (`fsync`,
//! `full_page_writes` and `synchronous_commit` are on), and pages have checksums.
//!
//! There are two roles: the superuser `postgres`, which cannot log in at all, and `headroom`, which
//! owns the database `headroom` and has a password (SCRAM; why, is told in
//! [`private_server`](crate::kernel::private_server)). Roles are made, and a lost password is
//! replaced, in single-user mode, which needs neither a client nor a moment with open doors.
//!
//! A cluster is never upgraded: without binaries of its own major version it is left alone.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use nix::sys::signal::Signal;

use crate::kernel::private_server::{
    DataDir, Orphans, Prepared, PrivateServer, PrivateServerConfig, PrivateServerError, Server,
    Socket, new_secret, percent_encoded,
};
use crate::kernel::process::{Process, ProcessSpec};
use crate::kernel::{Budget, ProcessExit, SupervisorHandle};

/// Its name in logs, in errors and in the ledger.
const NAME: &str = "postgres";

/// What an idle server and a few connections take: 16 MB of buffers, six processes, and what a
/// backend needs once it has looked at the catalogue.
const ESTIMATED_BYTES: u64 = 48 << 20;

/// The programs that are needed.
const PROGRAMS: [&str; 2] = ["postgres", "initdb"];

/// The folder of the cluster, and the one where it is laid out.
const CLUSTER: &str = "cluster";
const NEW_CLUSTER: &str = "cluster.new";

/// The file with the password of the role.
const PASSWORD: &str = "password";

/// The file of the socket. The port is only a part of its name.
const SOCKET: &str = ".s.PGSQL.5432";

/// The role of ours, and its database.
const ROLE: &str = "headroom";

/// The line that says that it answers.
const READY: &str = "database system is ready to accept connections";

/// Settings that do not depend on where it runs. Small, since it serves one application and shares
/// its memory budget; safe, since it keeps what nobody else does.
const SETTINGS: &str = "\
listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = 50
superuser_reserved_connections = 3
shared_buffers = 16MB
work_mem = 2MB
maintenance_work_mem = 16MB
temp_buffers = 2MB
huge_pages = off
jit = off
max_worker_processes = 2
max_parallel_workers = 0
max_parallel_workers_per_gather = 0
autovacuum_max_workers = 1
max_wal_senders = 2
min_wal_size = 32MB
max_wal_size = 128MB
fsync = on
full_page_writes = on
synchronous_commit = on
password_encryption = 'scram-sha-256'
logging_collector = off
log_destination = 'stderr'
log_line_prefix = ''
log_checkpoints = off
log_statement = 'none'
lc_messages = 'C'
timezone = 'UTC'
log_timezone = 'UTC'
";

/// Who may log in, and how: nobody but the role of ours.
const ACCESS: &str = "local all headroom scram-sha-256\n";

/// A PostgreSQL of our own with its data where `config` says, that runs under `supervisor` within
/// `budget`. Nothing is started or written before it is needed. Its URL is libpq's, with the password.
pub fn private_server(
    config: PrivateServerConfig,
    supervisor: SupervisorHandle,
    budget: Arc<dyn Budget>,
) -> PrivateServer {
    PrivateServer::new(Postgres, config, supervisor, budget)
}

struct Postgres;

impl Server for Postgres {
    fn name(&self) -> &'static str {
        NAME
    }

    fn usual_user(&self) -> &'static str {
        "postgres"
    }

    fn estimated_bytes(&self) -> u64 {
        ESTIMATED_BYTES
    }

    fn orphans(&self, data_dir: &DataDir) -> Orphans {
        Orphans {
            what: NAME,
            programs: &PROGRAMS,
            folders: vec![
                data_dir.folder.clone(),
                data_dir.folder.join(CLUSTER),
                data_dir.folder.join(NEW_CLUSTER),
            ],
            // Fast shutdown, then the immediate one; also for what a dead postmaster left.
            signals: &[Signal::SIGINT, Signal::SIGQUIT],
        }
    }

    fn prepare(
        &self,
        data_dir: Arc<DataDir>,
        config: PrivateServerConfig,
    ) -> BoxFuture<'static, Result<Prepared, PrivateServerError>> {
        async move {
            let binaries = find(&data_dir, &config).await?;
            Cluster { data_dir, binaries }.prepare().await
        }
        .boxed()
    }
}

/// The folder with the binaries to use: those of the cluster's version, or the first ones.
async fn find(
    data_dir: &DataDir,
    config: &PrivateServerConfig,
) -> Result<PathBuf, PrivateServerError> {
    let wanted = std::fs::read_to_string(data_dir.folder.join(CLUSTER).join("PG_VERSION")).ok();
    let wanted = wanted.map(|version| version.trim().to_owned());
    let mut found = Vec::new();
    for folder in config.search.with_all(&PROGRAMS) {
        let Some(version) = major_version(data_dir, folder).await? else {
            continue;
        };
        if wanted.as_ref().is_none_or(|wanted| *wanted == version) {
            return Ok(folder.to_owned());
        }
        found.push(format!("{version} in {}", folder.display()));
    }
    match wanted {
        Some(data) if !found.is_empty() => Err(PrivateServerError::Version {
            what: NAME,
            path: data_dir.folder.join(CLUSTER),
            data,
            found: found.join(", "),
        }),
        _ => Err(PrivateServerError::Missing {
            what: "the server of PostgreSQL (postgres, initdb)",
            looked_in: config.search.folders().to_vec(),
            remedy: "install it ('apt-get install postgresql' on Debian and Ubuntu, 'brew install \
                     postgresql' on macOS), or configure the URL of another one"
                .to_owned(),
        }),
    }
}

/// The major version of the binaries in `folder`; `None` when they do not run.
async fn major_version(
    data_dir: &DataDir,
    folder: &Path,
) -> Result<Option<String>, PrivateServerError> {
    let spec = program(data_dir, &folder.join("postgres")).argument("--version");
    let (exit, lines) = run(data_dir, &spec, Stdio::null()).await?;
    let version = lines.first().and_then(|line| {
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        let version = line.split_once(") ")?.1;
        let end = version.find(|c: char| !c.is_ascii_digit());
        Some(version[..end.unwrap_or(version.len())].to_owned())
    });
    Ok(version.filter(|_| exit == ProcessExit::Code(0)))
}

/// A program of the server's, as its user, in its folder.
fn program(data_dir: &DataDir, path: &Path) -> ProcessSpec {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let spec = ProcessSpec::new(name, path)
        .directory(&data_dir.folder)
        .environment("HOME", &data_dir.folder)
        .environment("LC_ALL", "C")
        .ends_with_server(Signal::SIGKILL);
    data_dir.account.run(spec)
}

async fn run(
    data_dir: &DataDir,
    spec: &ProcessSpec,
    stdin: Stdio,
) -> Result<(ProcessExit, Vec<String>), PrivateServerError> {
    Process::run(spec, stdin)
        .await
        .map_err(|error| data_dir.not_started(NAME, &error))
}

/// The cluster of a data_dir, and the programs for it.
struct Cluster {
    data_dir: Arc<DataDir>,
    binaries: PathBuf,
}

impl Cluster {
    async fn prepare(self) -> Result<Prepared, PrivateServerError> {
        let data_dir = &self.data_dir;
        let folder = data_dir.folder.join(CLUSTER);
        let known = data_dir.secret(PASSWORD);
        let password = match (&known, folder.join("PG_VERSION").is_file()) {
            (Some(password), true) => password.clone(),
            (known, is_cluster) => {
                let password = match known {
                    Some(password) => password.clone(),
                    None => {
                        new_secret().map_err(|error| PrivateServerError::folder(&folder, &error))?
                    }
                };
                if is_cluster {
                    self.replace_password(&password).await?;
                } else {
                    self.initialise(&password).await?;
                }
                password
            }
        };
        // Its process is gone. The number in it may be somebody else's now, and the server would
        // not start.
        data_dir.remove(Path::new(CLUSTER).join("postmaster.pid"))?;
        let sockets = data_dir.socket_folder(&format!("{SOCKET}.lock"))?;
        for name in [SOCKET.to_owned(), format!("{SOCKET}.lock")] {
            // An absolute path stands for itself.
            data_dir.remove(sockets.join(name))?;
        }
        let access = data_dir.write("pg_hba.conf", ACCESS.as_bytes())?;
        let settings = settings(&sockets, &access);
        let settings = data_dir.write("postgresql.conf", settings.as_bytes())?;
        let mut settings_file = OsString::from("config_file=");
        settings_file.push(settings);
        let process = program(data_dir, &self.binaries.join("postgres"))
            .argument("-D")
            .argument(&folder)
            .argument("-c")
            .argument(settings_file)
            .ready_line(READY)
            .stop_signal(Signal::SIGINT)
            .ends_with_server(Signal::SIGINT);
        let host = percent_encoded(&sockets, b"");
        let url = format!("postgresql://{ROLE}:{password}@{host}:5432/{ROLE}");
        let socket = Socket::new(sockets.join(SOCKET), url);
        Ok(Prepared { process, socket })
    }

    /// Lays out a cluster with our role and its database beside its place, and puts it there when
    /// it is complete.
    async fn initialise(&self, password: &str) -> Result<(), PrivateServerError> {
        let data_dir = &self.data_dir;
        let place = data_dir.folder.join(CLUSTER);
        if place.symlink_metadata().is_ok() {
            return Err(PrivateServerError::Folder {
                path: place,
                why: "it is there and is no cluster of PostgreSQL".into(),
                remedy: "move it away".into(),
            });
        }
        data_dir.remove(NEW_CLUSTER)?;
        let laid_out = self.lay_out(password).await;
        if laid_out.is_err() {
            // It may have filled the disk.
            data_dir.remove(NEW_CLUSTER)?;
            return laid_out;
        }
        data_dir.write(PASSWORD, password.as_bytes())?;
        data_dir.rename(NEW_CLUSTER, CLUSTER)
    }

    async fn lay_out(&self, password: &str) -> Result<(), PrivateServerError> {
        let spec = program(&self.data_dir, &self.binaries.join("initdb"))
            .argument("--pgdata")
            .argument(self.data_dir.folder.join(NEW_CLUSTER))
            .argument("--encoding=UTF8")
            .argument("--locale=C")
            .argument("--data-checksums")
            .argument("--username=postgres")
            // Nobody logs in by the cluster's own file; ours takes its place.
            .argument("--auth=reject");
        let (exit, lines) = run(&self.data_dir, &spec, Stdio::null()).await?;
        if exit != ProcessExit::Code(0) {
            return Err(PrivateServerError::Initialise { what: NAME, lines });
        }
        let statements = format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'\n\
             GRANT pg_monitor TO {ROLE}\n\
             CREATE DATABASE {ROLE} OWNER {ROLE}\n"
        );
        self.execute(NEW_CLUSTER, &statements).await
    }

    /// The file with the password is lost: the role gets a new one.
    async fn replace_password(&self, password: &str) -> Result<(), PrivateServerError> {
        tracing::warn!(
            server = NAME,
            "the password's file is gone or damaged, setting a new one"
        );
        self.data_dir
            .remove(Path::new(CLUSTER).join("postmaster.pid"))?;
        let statement = format!("ALTER ROLE {ROLE} PASSWORD '{password}'\n");
        self.execute(CLUSTER, &statement).await?;
        self.data_dir.write(PASSWORD, password.as_bytes()).map(drop)
    }

    /// Executes statements, one a line, in single-user mode.
    async fn execute(&self, cluster: &str, statements: &str) -> Result<(), PrivateServerError> {
        let data_dir = &self.data_dir;
        // Far less than a pipe holds, so this does not wait for its reader.
        let piped = std::io::pipe().and_then(|(reader, mut writer)| {
            writer.write_all(statements.as_bytes())?;
            Ok(reader)
        });
        let input = piped.map_err(|error| PrivateServerError::folder(&data_dir.folder, &error))?;
        let mut spec = program(data_dir, &self.binaries.join("postgres")).argument("--single");
        for setting in [
            "exit_on_error=on",
            "password_encryption=scram-sha-256",
            // A statement that fails is not logged: it may hold the password.
            "log_min_error_statement=panic",
            "log_statement=none",
            "shared_buffers=16MB",
            "log_checkpoints=off",
        ] {
            spec = spec.argument("-c").argument(setting);
        }
        let spec = spec
            .argument("-D")
            .argument(data_dir.folder.join(cluster))
            .argument("postgres");
        let (exit, lines) = run(data_dir, &spec, Stdio::from(input)).await?;
        if exit == ProcessExit::Code(0) {
            return Ok(());
        }
        Err(PrivateServerError::Initialise { what: NAME, lines })
    }
}

fn settings(sockets: &Path, access: &Path) -> String {
    let mut text = SETTINGS.to_owned();
    for (key, path) in [("unix_socket_directories", sockets), ("hba_file", access)] {
        let path = path
            .to_string_lossy()
            .replace('\\', "\\\\")
            .replace('\'', "''");
        // A list is split at commas, unless an entry is quoted.
        let value = match key {
            "unix_socket_directories" => format!("\"{}\"", path.replace('"', "\"\"")),
            _ => path,
        };
        // Writing to a string cannot fail.
        writeln!(text, "{key} = '{value}'").ok();
    }
    text
}

#[cfg(test)]
mod tests;
