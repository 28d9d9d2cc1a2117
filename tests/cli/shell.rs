//! What shells and scripts rely on: completions, the manual, and outputs that are closed early.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use headroom_test_support::capability;
use headroom_test_support::child;
use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::wait::DEADLINE;

use crate::{BINARY, Ended, command, run};

/// The completions of a shell name all commands, and the shell itself accepts them.
fn accepts_its_completions(shell: &str) {
    let script = run(command(&["completions", shell])).ok();
    for word in ["check-config", "doctor", "unload", "timeout"] {
        assert!(script.contains(word), "{shell}: {word}");
    }
    if is_missing(shell) {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(script.as_bytes()).unwrap();
    let mut checked = child::command(shell);
    checked.arg("-n").arg(file.path());
    assert_eq!(run(checked).ok(), "", "{shell}");
}

/// Whether a program is missing. Then the test is skipped.
fn is_missing(program: &str) -> bool {
    let is_missing = child::find(program).is_none();
    if is_missing {
        capability::skip(&format!(
            "{program} is missing (scripts/setup.sh shell_checks)"
        ));
    }
    is_missing
}

#[test]
fn bash_accepts_its_completions() {
    accepts_its_completions("bash");
}

#[test]
fn zsh_accepts_its_completions() {
    accepts_its_completions("zsh");
}

#[test]
fn fish_accepts_its_completions() {
    accepts_its_completions("fish");
}

#[test]
fn completions_of_other_shells_are_refused() {
    assert_eq!(run(command(&["completions", "cmd"])).code, Some(64));
}

#[test]
fn completions_of_bash_complete_commands() {
    let script = run(command(&["completions", "bash"])).ok();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions");
    std::fs::write(&file, script).unwrap();
    let mut bash = child::command("bash");
    bash.args(["--norc", "-c"]).arg(format!(
        ". {}; COMP_WORDS=(headroom models un); COMP_CWORD=2; _headroom headroom un models; \
         echo \"${{COMPREPLY[*]}}\"",
        file.display()
    ));
    assert_eq!(run(bash).ok(), "unload unpin\n");
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let written = run(command(&["man", "--dir", pages.to_str().unwrap()])).ok();
    for page in ["headroom.1", "headroom-doctor.1", "headroom-models-load.1"] {
        assert!(written.contains(&format!("/{page}\n")), "{written}");
    }
    let main = run(command(&["man"])).ok();
    assert_eq!(
        main,
        std::fs::read_to_string(pages.join("headroom.1")).unwrap()
    );
    for section in [
        ".SH NAME",
        ".SH EXAMPLES",
        ".SH ENVIRONMENT",
        ".SH EXIT STATUS",
    ] {
        assert!(main.contains(section), "{section} is not in\n{main}");
    }
    if is_missing("groff") {
        return;
    }
    for page in written.lines() {
        let mut groff = child::command("groff");
        // Plain text: no bold letters by overstriking.
        groff.args(["-man", "-Tutf8", "-ww", "-rF0"]);
        groff.args(["-P-c", "-P-b", "-P-o", "-P-u", page]);
        let text = run(groff).ok();
        assert!(text.contains("SYNOPSIS"), "{page}: {text}");
    }
}

/// Runs a command as in `headroom ... | true`: the reader of its output is gone before the first byte.
fn run_unread(mut command: Command) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("models")).unwrap();
    let errors = folder.path().join("errors");
    let (reader, writer) = std::io::pipe().unwrap();
    command
        .stdout(writer)
        .stderr(File::create(&errors).unwrap())
        .current_dir(folder.path());
    drop(reader);
    let mut child = child::start(&mut command).unwrap();
    let status = child.wait_within(DEADLINE).unwrap().expect("it ends");
    Ended {
        code: status.code(),
        stdout: String::new(),
        stderr: std::fs::read_to_string(&errors).unwrap(),
    }
}

#[test]
fn a_closed_output_ends_a_command_without_a_word() {
    for arguments in [
        &[][..],
        &["--help"],
        &["--version"],
        &["check-config"],
        &["openapi"],
        &["models", "list"],
        &["models", "list", "--json"],
        &["completions", "bash"],
        &["man"],
        &["doctor"],
    ] {
        run_unread(command(arguments)).ok();
    }
}

/// Who does not read the output may still look at the exit code, as `pipefail` of shells does.
#[test]
fn a_closed_output_does_not_hide_a_failure() {
    let mut doctor = command(&["doctor"]);
    doctor.env("HEADROOM__MEMORY__LIMIT", "1KiB");
    let (_, stderr) = run_unread(doctor).failed(78);
    assert_eq!(stderr, "headroom: 1 check failed\n");

    let models = Models::new();
    models.add("broken", 1, |path| std::fs::write(path, "no model"));
    let server = Server::start(models.options(BINARY));
    for (arguments, error) in [
        (
            &["models", "load", "broken"][..],
            "nothing was loaded: broken:1",
        ),
        (
            &["models", "load", "broken", "--json"],
            "nothing was loaded: broken:1",
        ),
        (
            &["models", "unload", "nowhere:1", "--json"],
            "There is no such resource (404)",
        ),
    ] {
        let mut command = command(arguments);
        command.args(["--url", &server.url("")]);
        let (_, stderr) = run_unread(command).failed(1);
        assert!(stderr.contains(error), "{arguments:?}: {stderr}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let mut list = command(&["models", "list", "--json"]);
    let folder = tempfile::tempdir().unwrap();
    let errors = folder.path().join("errors");
    list.stdout(File::options().write(true).open("/dev/full").unwrap())
        .stderr(File::create(&errors).unwrap())
        .current_dir(folder.path());
    let mut child = child::start(&mut list).unwrap();
    let status = child.wait_within(DEADLINE).unwrap().expect("it ends");
    let stderr = std::fs::read_to_string(&errors).unwrap();
    let ended = Ended {
        code: status.code(),
        stdout: String::new(),
        stderr,
    };
    let (_, error) = ended.failed(1);
    assert!(error.contains("cannot write to standard output"), "{error}");
}

#[test]
fn each_command_explains_itself_with_an_example() {
    for arguments in [
        &["doctor"][..],
        &["status"],
        &["gc"],
        &["optimize"],
        &["completions"],
        &["man"],
        &["models", "list"],
        &["models", "load"],
        &["models", "unload"],
        &["models", "pin"],
        &["models", "unpin"],
    ] {
        let mut help = command(arguments);
        help.arg("--help");
        let text = run(help).ok();
        assert!(text.contains("Example"), "{arguments:?}: {text}");
    }
}
