//! What shells and scripts rely on: completions, the manual, and outputs that are closed early.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use headroom_test_support::child;
use headroom_test_support::wait::DEADLINE;

use crate::{Ended, command, run};

#[test]
fn completions_are_valid_scripts() {
    for (shell, check) in [("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")] {
        let script = run(command(&["completions", shell])).ok();
        for word in ["check-config", "doctor", "unload", "timeout"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(script.as_bytes()).unwrap();
        // bash is everywhere; the others are checked where they are.
        if shell == "bash" || Path::new("/usr/bin").join(check).exists() {
            let mut checked = child::command(check);
            checked.arg("-n").arg(file.path());
            assert_eq!(run(checked).ok(), "", "{shell}");
        }
    }
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
    if !Path::new("/usr/bin/groff").exists() {
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

/// As `headroom models list | true`: the reader of the output is gone before the first byte.
#[test]
fn a_closed_output_ends_a_command_without_a_word() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["check-config"],
        &["models", "list"],
        &["models", "list", "--json"],
        &["completions", "bash"],
        &["man"],
        &["doctor"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let errors = folder.path().join("errors");
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = command(arguments);
        command
            .stdout(writer)
            .stderr(File::create(&errors).unwrap())
            .current_dir(folder.path());
        let mut child = child::start(&mut command).unwrap();
        drop((reader, command));
        let status = child.wait_within(DEADLINE).unwrap().expect("it ends");
        assert_eq!(status.code(), Some(0), "{arguments:?}");
        let errors = std::fs::read_to_string(&errors).unwrap();
        assert_eq!(errors, "", "{arguments:?}");
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
