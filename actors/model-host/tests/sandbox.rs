//! What a model cannot do, tried by models and by native code in a real host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(missing_docs)]

#[allow(dead_code)] // Each test binary uses another part.
mod owner;

use std::{
    ffi::OsStr,
    fs,
    io::{ErrorKind, Read},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
};

use headroom_model_protocol::*;
use headroom_test_support::{
    capability::lacks_sandbox,
    child, native,
    process_tree::is_alive,
    torchscript::{self, Script},
};
use nix::{
    sys::{
        resource::{Resource, getrlimit},
        signal::Signal,
    },
    unistd::Uid,
};
use owner::*;

/// What `native/hostile.c` tries, and whom the sandbox tells of it.
const ATTEMPTS: [(&str, &str); 20] = [
    ("to read a file", "open to read "),
    ("to write a file", "open to write "),
    ("to read the server's environment", "open to read /proc/"),
    ("to write with the mark", "open to write "),
    ("to truncate its model", "open to write /proc/self/fd/"),
    ("to make a socket", "socket"),
    ("to connect", "connect"),
    ("to listen", "listen"),
    ("to append to its arena", "fcntl"),
    ("to send a message", "sendmsg"),
    ("to receive urgent data", "recvfrom"),
    ("to fork", "clone"),
    ("to execute a program", "execve"),
    ("to limit a process", "prlimit64"),
    ("to read a process", "process_vm_readv"),
    ("to trace a process", "ptrace"),
    ("to kill a process", "kill"),
    ("to make a memory file", "memfd_create"),
    ("to leave its namespaces", "unshare"),
    ("to replace the handler", "rt_sigaction"),
];

/// The hostile library in `folder`.
fn hostile_library(folder: &Path) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/native/hostile.c");
    native::library(Path::new(source), folder)
}

/// What the host has written until its end.
fn log_of(zygote: &mut Zygote, mut host: Host, pid: i32, mut log: fs::File) -> String {
    host.socket.send(&HostRequest::Stop, &[]);
    zygote.exit_of(pid);
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    text
}

fn status_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

/// Runs the hostile library in a host, on a kernel with this version of Landlock or with its own. Returns the host's log,
/// whether it reached the network, whether it wrote a file, and whether its victim lives.
fn attack(sandbox: SandboxMode, landlock: Option<&str>) -> (String, [bool; 3]) {
    let (folder, path) = model(torchscript::echo);
    let library = hostile_library(folder.path());
    let (secret, new_file) = (folder.path().join("secret"), folder.path().join("new"));
    fs::write(&secret, "secret").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut victim = child::start(child::command("sleep").arg("100")).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let (server, victim_id) = (std::process::id().to_string(), victim.id().to_string());
    let mut variables: Vec<(&str, &OsStr)> = vec![
        ("LD_PRELOAD", library.as_os_str()),
        ("SECRET", secret.as_os_str()),
        ("NEW_FILE", new_file.as_os_str()),
        ("PORT", port.as_ref()),
        ("SERVER", server.as_ref()),
        ("VICTIM", victim_id.as_ref()),
    ];
    variables.extend(landlock.map(|version| ("LANDLOCK", OsStr::new(version))));
    let mut zygote = Zygote::spawn_with(&variables);
    let (mut host, pid, log) = zygote.fork();
    let start = Start {
        sandbox,
        ..Start::new("hostile", &path)
    };
    let reply = host.start(start);
    assert!(matches!(reply, HostReply::Ready(_)), "{reply:?}");
    // It still serves.
    let x = TensorData::floats(&[2], &[1., 2.]);
    assert_eq!(host.run(&x).to_floats(), [1., 2.]);
    let log = log_of(&mut zygote, host, pid, log);
    let connected = match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        accepted => accepted.is_ok(),
    };
    let killed = sandbox == SandboxMode::Off && victim.wait_within(DEADLINE).unwrap().is_some();
    let victim_lives = !killed && is_alive(victim.id());
    (log, [connected, new_file.exists(), victim_lives])
}

fn result<'a>(log: &'a str, attempt: &str) -> &'a str {
    let begin = format!("attempt {attempt}: ");
    let mut lines = log.lines();
    let found = lines.find_map(|line| line.strip_prefix(&begin));
    found.unwrap_or_else(|| panic!("no attempt {attempt} in {log}"))
}

#[test]
fn native_code_in_a_host_reaches_nothing_and_each_attempt_is_logged() {
    if lacks_sandbox(BINARY) {
        return;
    }
    reaches_nothing(SandboxMode::Required, None);
}

#[test]
fn native_code_in_a_host_reaches_nothing_on_kernels_with_little_or_no_landlock() {
    if lacks_sandbox(BINARY) {
        return;
    }
    for version in ["0", "1", "2"] {
        reaches_nothing(SandboxMode::BestEffort, Some(version));
    }
}

fn reaches_nothing(sandbox: SandboxMode, landlock: Option<&str>) {
    let (log, [connected, wrote, victim_lives]) = attack(sandbox, landlock);
    for (attempt, call) in ATTEMPTS {
        let result = result(&log, attempt);
        let is_denied = ["EPERM", "EACCES"].contains(&result);
        assert!(is_denied, "landlock {landlock:?}: {attempt}: {result}");
        let denied = format!("denied: {call}");
        assert!(log.contains(&denied), "no line {denied} in {log}");
    }
    assert!(!connected && !wrote && victim_lives, "{log}");
}

/// The attempts of the test above are real ones.
#[test]
fn native_code_in_a_host_without_a_sandbox_reaches_all_that_the_server_can() {
    let (log, [connected, wrote, victim_lives]) = attack(SandboxMode::Off, None);
    for (attempt, _) in ATTEMPTS {
        let result = result(&log, attempt);
        // Of a program and an address that do not exist.
        let expected = match attempt {
            "to execute a program" => "ENOENT",
            "to read a process" => "EFAULT",
            // There is none.
            "to receive urgent data" => "EINVAL",
            _ => "done",
        };
        // Some machines let no process trace another one.
        let is_hardened = attempt.ends_with("a process") && result == "EPERM";
        assert!(result == expected || is_hardened, "{attempt}: {result}");
    }
    assert!(connected && wrote && !victim_lives, "{log}");
    assert!(!log.contains("denied: "), "{log}");
}

/// As `posix_spawn` does.
#[test]
fn code_that_blocks_all_signals_is_ended_at_its_first_denied_call() {
    let (folder, path) = model(torchscript::echo);
    let library = hostile_library(folder.path());
    if lacks_sandbox(BINARY) {
        return;
    }
    let variables = [
        ("LD_PRELOAD", library.as_os_str()),
        ("BLOCK_SIGNALS", "1".as_ref()),
    ];
    let mut zygote = Zygote::spawn_with(&variables);
    let (mut host, pid, mut log) = zygote.fork();
    host.send_start(Start::new("hostile", &path));
    let exit = zygote.exit_of(pid);
    assert_eq!(exit.signal(), Some(Signal::SIGSYS as i32), "{exit:?}");
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

/// Loads a model with this code and calls it. Returns the error of the call, if any, and the host's log.
fn call(code: &str, sandbox: SandboxMode) -> (Option<String>, String) {
    let (_folder, path) = model(|path| Script::new(code).write(path));
    let mut zygote = Zygote::spawn();
    let (mut host, pid, log) = zygote.fork();
    let reply = host.start(Start {
        sandbox,
        ..Start::new("hostile", path)
    });
    assert!(matches!(reply, HostReply::Ready(_)), "{reply:?}");
    let answer = host.infer(&[Arg::Tensor(&TensorData::floats(&[1], &[1.]))]);
    let error = answer.err().map(|(_, message)| message);
    (error, log_of(&mut zygote, host, pid, log))
}

fn reads(path: &str) -> String {
    format!(
        "def forward(self, x: Tensor) -> Tensor:\n  \
         return torch.from_file(\"{path}\", False, 4, dtype=0)\n"
    )
}

#[test]
fn a_model_reads_no_file() {
    if lacks_sandbox(BINARY) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let own = format!("/proc/{}/environ", std::process::id());
    for path in [secret.to_str().unwrap(), &own, "/etc/passwd"] {
        let (error, log) = call(&reads(path), SandboxMode::Required);
        let error = error.unwrap();
        assert!(error.contains("Permission denied"), "{error}");
        assert!(
            log.contains(&format!("denied: open to read {path}\n")),
            "{log}"
        );
    }
    let (error, _) = call(&reads(secret.to_str().unwrap()), SandboxMode::Off);
    assert_eq!(error, None);
}

/// As the C library does for the variable TZ.
#[test]
fn the_files_of_time_zones_can_be_read() {
    let path = "/usr/share/zoneinfo/UTC";
    if lacks_sandbox(BINARY) || !Path::new(path).exists() {
        return;
    }
    let (error, log) = call(&reads(path), SandboxMode::Required);
    assert_eq!((error, log.as_str()), (None, ""));
}

#[test]
fn a_model_writes_no_file() {
    if lacks_sandbox(BINARY) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    let code = format!(
        "def forward(self, x: Tensor) -> Tensor:\n  torch.save(x, \"{}\")\n  return x\n",
        target.display()
    );
    let (_, log) = call(&code, SandboxMode::Required);
    let denied = format!("denied: open to write {}\n", target.display());
    assert!(log.contains(&denied), "{log}");
    assert!(!target.exists());
    call(&code, SandboxMode::Off);
    assert!(target.exists());
}

#[test]
fn denials_are_reported_in_numbers_and_their_lines_are_bounded() {
    if lacks_sandbox(BINARY) {
        return;
    }
    let code = "def forward(self, x: Tensor) -> Tensor:\n  \
        for _0 in range(100):\n    torch.save(x, \"/nowhere\")\n  return x\n";
    let (_folder, path) = model(|path| Script::new(code).write(path));
    let mut zygote = Zygote::spawn();
    let (mut host, pid, log) = zygote.fork();
    host.start(Start::new("hostile", path));
    host.run(&TensorData::floats(&[1], &[1.]));
    host.socket.send(&HostRequest::Ping, &[]);
    let denied = HostReply::Denied {
        action: DeniedAction::File,
        count: 100,
    };
    assert_eq!(host.socket.receive().unwrap().header, denied);
    assert!(matches!(host.reply(), HostReply::Pong { .. }));
    // They are told once.
    host.socket.send(&HostRequest::Ping, &[]);
    let next = host.socket.receive().unwrap().header;
    assert!(matches!(next, HostReply::Pong { .. }), "{next:?}");
    let log = log_of(&mut zygote, host, pid, log);
    assert_eq!(log.matches("denied: ").count(), 32, "{log}");
}

#[test]
fn a_host_keeps_no_right_that_it_does_not_need() {
    if lacks_sandbox(BINARY) {
        return;
    }
    let (_folder, path) = model(torchscript::echo);
    let mut zygote = Zygote::spawn();
    let (mut host, pid, _log) = zygote.fork();
    let reply = host.start(Start::new("echo", &path));
    assert!(matches!(reply, HostReply::Ready(_)), "{reply:?}");
    let status = status_of(pid);
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "no {line} in {status}");
    }
    assert_no_capabilities(&status);
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    assert!(
        core.unwrap()
            .split_whitespace()
            .skip(4)
            .take(2)
            .eq([core_max(), core_max()])
    );
    let sandbox = host.sandbox;
    assert_eq!(sandbox.state, SandboxState::Full, "{sandbox:?}");
    assert!(
        sandbox.seccomp && sandbox.landlock_abi.is_some(),
        "{sandbox:?}"
    );
    let own = Uid::effective();
    if own.is_root() {
        assert_eq!(sandbox.user, 65534);
        assert!(status.contains("Groups:\t \n"), "{status}");
    } else {
        assert_eq!(sandbox.user, own.as_raw());
    }
}

/// A hard limit that the process inherits cannot be raised by everyone.
fn core_max() -> String {
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    hard.min(1).to_string()
}

fn assert_no_capabilities(status: &str) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let line = format!("{set}:\t0000000000000000\n");
        assert!(status.contains(&line), "no {line} in {status}");
    }
}

/// As under root in a container, or under a profile that refuses a change of the user.
#[test]
fn a_host_that_must_stay_root_has_no_capability_and_says_why() {
    if lacks_sandbox(BINARY) || !Uid::effective().is_root() {
        return;
    }
    let (folder, path) = model(torchscript::echo);
    let library = hostile_library(folder.path());
    for (variable, value, reason) in [
        ("KEEPS_USER", "1", "Operation not permitted"),
        (
            "LACKS_CAPABILITY",
            "5",
            "the server is root without CAP_KILL",
        ),
        (
            "LACKS_CAPABILITY",
            "19",
            "the server is root without CAP_SYS_PTRACE",
        ),
    ] {
        let preload = ("LD_PRELOAD", library.as_os_str());
        let mut zygote = Zygote::spawn_with(&[preload, (variable, OsStr::new(value))]);
        let mut start = |sandbox| {
            let (mut host, pid, _log) = zygote.fork();
            let start = Start {
                sandbox,
                ..Start::new("echo", &path)
            };
            let reply = host.start(start);
            (host, pid, reply)
        };
        let (host, pid, HostReply::Ready(_)) = start(SandboxMode::BestEffort) else {
            panic!("it was not loaded")
        };
        let sandbox = &host.sandbox;
        assert_eq!((sandbox.state, sandbox.user), (SandboxState::Partial, 0));
        let missing = sandbox.missing.join("; ");
        assert!(
            missing.starts_with("an unprivileged user (") && missing.contains(reason),
            "{missing}"
        );
        assert_eq!(sandbox.missing.len(), 1, "{missing}");
        assert_no_capabilities(&status_of(pid));
        let (.., HostReply::StartFailed(failure)) = start(SandboxMode::Required) else {
            panic!("it was loaded")
        };
        assert!(failure.message.contains(reason), "{}", failure.message);
    }
}

#[test]
fn a_model_file_need_not_be_readable_to_the_user_of_its_host() {
    let (_folder, path) = model(|path| torchscript::weights(path, 1 << 20));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut zygote = Zygote::spawn();
    let (mut host, pid, log) = zygote.fork();
    let reply = host.start(Start::new("weights", &path));
    assert!(matches!(reply, HostReply::Ready(_)), "{reply:?}");
    let log = log_of(&mut zygote, host, pid, log);
    // What libtorch itself opens is not a denied action.
    assert_eq!(log, "");
}

/// As on a kernel without Landlock.
#[test]
fn a_kernel_that_lacks_a_part_loads_nothing_if_that_is_required() {
    if lacks_sandbox(BINARY) {
        return;
    }
    let (folder, path) = model(torchscript::echo);
    let library = hostile_library(folder.path());
    let mut zygote = Zygote::spawn_with(&[
        ("LD_PRELOAD", library.as_os_str()),
        ("LANDLOCK", "0".as_ref()),
    ]);
    let mut start = |sandbox| {
        let (mut host, _, _log) = zygote.fork();
        let reply = host.start(Start {
            sandbox,
            ..Start::new("echo", &path)
        });
        (host.sandbox, reply)
    };
    let (_, HostReply::StartFailed(failure)) = start(SandboxMode::Required) else {
        panic!("it was loaded")
    };
    assert_eq!(failure.kind, FailureKind::Settings);
    assert!(
        failure
            .message
            .contains("lacks: landlock (the kernel does not have it"),
        "{}",
        failure.message
    );
    let (sandbox, HostReply::Ready(_)) = start(SandboxMode::BestEffort) else {
        panic!("it was not loaded")
    };
    assert_eq!(sandbox.state, SandboxState::Partial);
    assert_eq!((sandbox.landlock_abi, sandbox.seccomp), (None, true));
    assert_eq!(sandbox.missing.len(), 1, "{sandbox:?}");
    let (sandbox, HostReply::Ready(_)) = start(SandboxMode::Off) else {
        panic!("it was not loaded")
    };
    assert_eq!(sandbox.state, SandboxState::Off);
}

#[test]
fn a_host_says_how_it_is_confined_before_it_reads_the_file() {
    if lacks_sandbox(BINARY) {
        return;
    }
    let (_folder, path) = model(|path| fs::write(path, "no model"));
    let mut zygote = Zygote::spawn();
    let (mut host, _, _log) = zygote.fork();
    let reply = host.start(Start::new("none", &path));
    assert!(matches!(reply, HostReply::StartFailed(_)), "{reply:?}");
    assert_eq!(host.sandbox.state, SandboxState::Full);
}
