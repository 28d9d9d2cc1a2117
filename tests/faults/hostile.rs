//! Native code that has taken over a process of a model.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use headroom_test_support::process_tree::wait_until_gone;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use headroom_test_support::{native, torchscript};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::setup::{BINARY, ServerWithModels, floats};

/// A server whose model processes have mapped a hostile library, which does what the variable `act` selects.
fn start(act: &str) -> (ServerWithModels, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/actors/model-host/tests/native/hostile.c"
    );
    let library = native::library(Path::new(source), folder.path());
    let real = Path::new(BINARY).with_file_name("headroom-model-host");
    let script = format!(
        "#!/bin/sh\n{act}=1 LD_PRELOAD='{}' exec '{}' \"$@\"\n",
        library.display(),
        real.display()
    );
    let binary = folder.path().join("host");
    fs::write(&binary, script).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let server = ServerWithModels::start(&format!("models.host_binary = '{}'", binary.display()));
    server.add_model("affine", torchscript::affine);
    (server, folder)
}

/// The readings of memory would show nothing of it.
#[tokio::test]
async fn a_process_whose_main_thread_has_ended_is_killed() {
    let (server, _folder) = start("END_MAIN_THREAD");
    let answer = server.infer("affine", &floats(&[2.0])).await;
    answer.assert_refused(503, "SIGKILL");
    let told = wait_for_async(DEADLINE, async || match server.log() {
        log if log.contains("the main thread of a model's process has ended") => Ok(()),
        log => Err(log),
    });
    told.await;
}

#[tokio::test]
async fn a_process_that_reads_the_names_in_a_file_ends_with_a_killed_server() {
    let (mut server, _folder) = start("STALL");
    let request = server.client().get(server.url("/v2/models/affine"));
    let described = tokio::spawn(request.send());
    let processes = wait_for_async(DEADLINE, async || match server.processes() {
        processes if processes.iter().any(|it| it.name == "hr-describe") => Ok(processes),
        processes => Err(format!("{processes:?}")),
    });
    let processes = processes.await;
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    wait_until_gone(&processes);
    described.abort();
}
