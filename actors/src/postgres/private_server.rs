//! A private PostgreSQL, used when no URL is configured.
//!
//! The cluster is created in a folder beside its final place and renamed when it is complete, so that
//! an interrupted creation is never taken for a cluster. Its settings are written before each start,
//! outside of the cluster. Acknowledged transactions are on the disk (`fsync`, `full_page_writes` and
//! `synchronous_commit` are on), and pages have checksums.
//!
//! There are two roles. The superuser `postgres` cannot log in. `headroom` owns the database
//! `headroom` and has a password (SCRAM; [`private_server`](crate::kernel::private_server) describes
//! who can connect). Roles are created, and a lost password is replaced, in single-user mode: it needs
//! no client, and no client can connect meanwhile.
//!
//! A cluster is never upgraded: without programs of its major version it is left untouched.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use futures_util::future::FutureExt;
use nix::sys::signal::Signal;

use crate::kernel::ProcessExit;
use crate::kernel::private_server::{
    DataDir, PreparedServer, PrivateServerError, Programs, SearchPath, ServerKind, Socket,
    new_password, percent_encoded,
};
use crate::kernel::regular_file;

/// A private PostgreSQL. Its URL is one of libpq and contains the password.
pub static PRIVATE_SERVER: ServerKind = ServerKind {
    name: "postgres",
    child: "server",
    user: "postgres",
    product: "PostgreSQL",
    programs: &["postgres", "initdb"],
    packages: ["postgresql", "postgresql"],
    // 16 MB of buffers, six processes, and what a few backends need for the catalogue.
    estimated_bytes: 48 << 20,
    working_folders: &[CLUSTER, NEW_CLUSTER],
    // The fast shutdown, then the immediate one. Both also end the children of a dead postmaster.
    end_signals: &[Signal::SIGINT, Signal::SIGQUIT],
    find: |data_dir, search| find_programs(data_dir, search).boxed(),
    prepare: |data_dir, search| prepare(data_dir, search).boxed(),
};

/// The folder of the cluster, and the folder where it is created.
const CLUSTER: &str = "cluster";
const NEW_CLUSTER: &str = "cluster.new";

/// Bytes of the file with the cluster's major version at most.
const VERSION_BYTES_MAX: u64 = 64;

/// The file of the socket. The port is only a part of its name.
const SOCKET: &str = ".s.PGSQL.5432";

/// The role that Headroom logs in as, and its database.
const ROLE: &str = "headroom";

const READY: &str = "database system is ready to accept connections";

/// The settings that do not depend on the data folder. They are small, since the server shares the
/// memory budget, and durable, since no copy of its data exists.
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

/// The access rules: only the role may log in.
const ACCESS: &str = "local all headroom scram-sha-256\n";

async fn prepare(
    data_dir: Arc<DataDir>,
    search: SearchPath,
) -> Result<PreparedServer, PrivateServerError> {
    let programs = find_programs(&data_dir, &search).await?.folder;
    let cluster = Cluster { data_dir, programs };
    let data_dir = &cluster.data_dir;
    let folder = data_dir.folder.join(CLUSTER);
    let known = data_dir.password();
    let is_lost = known.is_none();
    let password = known.unwrap_or_else(new_password);
    if !folder.join("PG_VERSION").is_file() {
        cluster.initialise(&password).await?;
    } else if is_lost {
        cluster.replace_password(&password).await?;
    }
    // The server does not start if another process has the process id in this file by now.
    data_dir.remove(Path::new(CLUSTER).join("postmaster.pid"))?;
    let sockets = data_dir.socket_folder(&format!("{SOCKET}.lock"))?;
    for name in [SOCKET.to_owned(), format!("{SOCKET}.lock")] {
        data_dir.remove(sockets.join(name))?;
    }
    let access = data_dir.write("pg_hba.conf", ACCESS.as_bytes())?;
    let settings = settings(&sockets, &access);
    let mut settings_file = OsString::from("config_file=");
    settings_file.push(data_dir.write("postgresql.conf", settings.as_bytes())?);
    let process = data_dir
        .program(&cluster.programs.join("postgres"))
        .argument("-D")
        .argument(&folder)
        .argument("-c")
        .argument(settings_file)
        .ready_line(READY)
        .stop_signal(Signal::SIGINT)
        .ends_with_server(Signal::SIGINT);
    let host = percent_encoded(&sockets);
    let url = format!("postgresql://{ROLE}:{password}@{host}:5432/{ROLE}");
    let socket = Socket::new(sockets.join(SOCKET), url);
    Ok(PreparedServer { process, socket })
}

/// The folder of the programs: those of the cluster's major version, or the first ones if there is no
/// cluster.
async fn find_programs(
    data_dir: &DataDir,
    search: &SearchPath,
) -> Result<Programs, PrivateServerError> {
    let path = data_dir.folder.join(CLUSTER);
    let file = path.join("PG_VERSION");
    let wanted = match regular_file::read_text(&file, VERSION_BYTES_MAX) {
        Ok(version) => Some(version.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(PrivateServerError::folder(&file, &error)),
    };
    let mut installed = Vec::new();
    let found = PRIVATE_SERVER.find_programs(search, data_dir, |folder, line| {
        let Some(version) = major_version(line) else {
            return false;
        };
        installed.push(format!("{version} in {}", folder.display()));
        wanted.as_deref().is_none_or(|wanted| wanted == version)
    });
    match (found.await, wanted) {
        (Err(PrivateServerError::Missing { .. }), Some(data)) if !installed.is_empty() => {
            Err(PrivateServerError::Version {
                server: PRIVATE_SERVER.name,
                path,
                data,
                found: installed.join(", "),
            })
        }
        (found, _) => found,
    }
}

/// The major version in a line like `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(line: &str) -> Option<&str> {
    let version = line.split_once(") ")?.1;
    let end = version.find(|c: char| !c.is_ascii_digit());
    Some(&version[..end.unwrap_or(version.len())])
}

/// The cluster in a data folder, and the folder of the programs for it.
struct Cluster {
    data_dir: Arc<DataDir>,
    programs: PathBuf,
}

impl Cluster {
    /// Creates the cluster with the role and its database, and moves it to its final place when it
    /// is complete.
    async fn initialise(&self, password: &str) -> Result<(), PrivateServerError> {
        let data_dir = &self.data_dir;
        let path = data_dir.folder.join(CLUSTER);
        if path.symlink_metadata().is_ok() {
            return Err(PrivateServerError::Folder {
                path,
                reason: "it exists and is not a cluster of PostgreSQL".into(),
                remedy: "move it away".into(),
            });
        }
        data_dir.remove(NEW_CLUSTER)?;
        if let Err(error) = self.create(password).await {
            // It may have filled the disk.
            data_dir.remove(NEW_CLUSTER)?;
            return Err(error);
        }
        data_dir.write_password(password)?;
        data_dir.rename(NEW_CLUSTER, CLUSTER)
    }

    async fn create(&self, password: &str) -> Result<(), PrivateServerError> {
        let data_dir = &self.data_dir;
        let spec = data_dir
            .program(&self.programs.join("initdb"))
            .argument("--pgdata")
            .argument(data_dir.folder.join(NEW_CLUSTER))
            .argument("--encoding=UTF8")
            .argument("--locale=C")
            .argument("--data-checksums")
            .argument("--username=postgres")
            // The server reads another file of access rules. The cluster's own file lets nobody in.
            .argument("--auth=reject");
        succeed(data_dir.run(&spec, Stdio::null()).await?)?;
        let statements = format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD '{password}'\n\
             GRANT pg_monitor TO {ROLE}\n\
             CREATE DATABASE {ROLE} OWNER {ROLE}\n"
        );
        self.execute(NEW_CLUSTER, &statements).await
    }

    /// Gives the role a new password, since the file with the old one is lost.
    async fn replace_password(&self, password: &str) -> Result<(), PrivateServerError> {
        let server = PRIVATE_SERVER.name;
        tracing::warn!(
            server,
            "the file of the password is lost, setting a new password"
        );
        self.data_dir
            .remove(Path::new(CLUSTER).join("postmaster.pid"))?;
        let statement = format!("ALTER ROLE {ROLE} PASSWORD '{password}'\n");
        self.execute(CLUSTER, &statement).await?;
        self.data_dir.write_password(password)
    }

    /// Executes statements, one per line, in single-user mode.
    async fn execute(&self, cluster: &str, statements: &str) -> Result<(), PrivateServerError> {
        let data_dir = &self.data_dir;
        // The statements fit into the pipe's buffer, so this write does not wait for a reader.
        let input = std::io::pipe().and_then(|(reader, mut writer)| {
            writer.write_all(statements.as_bytes())?;
            Ok(reader)
        });
        let input = input.map_err(|error| PrivateServerError::folder(&data_dir.folder, &error))?;
        let mut spec = data_dir
            .program(&self.programs.join("postgres"))
            .argument("--single");
        for setting in [
            "exit_on_error=on",
            "password_encryption=scram-sha-256",
            // A failed statement is not logged: it may contain the password.
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
        succeed(data_dir.run(&spec, Stdio::from(input)).await?)
    }
}

/// An error if a program that creates or changes the cluster failed.
fn succeed((exit, lines): (ProcessExit, Vec<String>)) -> Result<(), PrivateServerError> {
    if exit == ProcessExit::Code(0) {
        return Ok(());
    }
    let server = PRIVATE_SERVER.name;
    Err(PrivateServerError::Initialise { server, lines })
}

fn settings(sockets: &Path, access: &Path) -> String {
    let escaped = |path: &Path| {
        // Nothing is lost: the data folder refuses paths that are not UTF-8.
        let path = path.to_string_lossy();
        path.replace('\\', "\\\\").replace('\'', "''")
    };
    // This setting is a list: an entry with a comma needs double quotes.
    let sockets = escaped(sockets).replace('"', "\"\"");
    let access = escaped(access);
    format!("{SETTINGS}unix_socket_directories = '\"{sockets}\"'\nhba_file = '{access}'\n")
}

#[cfg(test)]
mod tests;
