//! A server that is the first process of a PID namespace, as in a container: it is the new parent of the processes whose
//! parent has ended, and has to wait for them.

use headroom_test_support::capability::skip;
use headroom_test_support::child;
use headroom_test_support::process_tree::{Process, descendants};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for};
use nix::unistd::Uid;

use crate::setup::{ServerWithModels, floats};

/// The command that makes its last arguments the first process of a PID namespace, which ends with the command.
fn unshare() -> Vec<&'static str> {
    let mut command = vec!["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Uid::effective().is_root() {
        command.extend(["--user", "--map-root-user"]);
    }
    command
}

/// Why the system makes no PID namespaces, if it does not.
fn refusal() -> Option<String> {
    let command = unshare();
    let mut probe = child::command(command[0]);
    probe.args(&command[1..]).arg("true");
    match child::output(&mut probe, DEADLINE) {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// The server, as this test sees it from outside of the namespace.
fn server_process(server: &ServerWithModels) -> Process {
    let folder = server.folder().to_str().unwrap().to_owned();
    wait_for(DEADLINE, || {
        let mut found = descendants(std::process::id());
        found.retain(|process| {
            let path = format!("/proc/{}/cmdline", process.pid);
            let line = std::fs::read_to_string(path).unwrap_or_default();
            process.name == "headroom" && line.contains(&folder)
        });
        match &found[..] {
            [only] => Ok(only.clone()),
            _ => Err(found),
        }
    })
}

fn find(server: &Process, name: &str) -> Process {
    wait_for(DEADLINE, || {
        let below = descendants(server.pid);
        let found = below.iter().find(|it| it.name == name && it.is_running());
        found.cloned().ok_or(below)
    })
}

#[tokio::test]
async fn the_first_process_of_a_container_reaps_the_hosts_of_a_killed_zygote() {
    if let Some(reason) = refusal() {
        return skip(&format!("the system makes no PID namespaces: {reason}"));
    }
    // In a namespace of users there is no other user for hosts.
    let server = ServerWithModels::start_with(|options| {
        options
            .launched_by(&unshare())
            .settings("models.sandbox = 'off'")
    });
    assert_eq!(server.pid(), 1, "it is the first process");
    server.add_model("affine", torchscript::affine);
    server.infer("affine", &floats(&[2.0])).await.output();
    let process = server_process(&server);
    let host = find(&process, "hr:affine");
    let zygote = find(&process, "hr-zygote");
    assert_eq!(host.parent, zygote.pid);

    zygote.kill();
    host.wait_until_gone();
    wait_for(DEADLINE, || {
        let left: Vec<_> = [&host, &zygote]
            .into_iter()
            .filter(|it| Process::read(it.pid).as_ref() == Some(*it))
            .collect();
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:?}"))
    });
    // Its own processes still end with their status, and start again.
    server
        .wait_until_served("affine", &floats(&[2.0]), &[6.5])
        .await;
    let restarted = find(&process, "hr-zygote");
    assert_ne!(restarted, zygote);
}
