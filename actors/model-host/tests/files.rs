//! Files that are not models, or damaged ones: each is refused with a reason, and none crashes a host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(missing_docs)]

#[allow(dead_code)] // Each test binary uses another part.
mod owner;

use std::{fs, io::Write, path::Path};

use headroom_test_support::torchscript::{self, Script};
use owner::*;
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

fn refusal(path: &Path) -> String {
    let (output, report) = check(path);
    assert_eq!(output.status.code(), Some(65), "{report}");
    assert_eq!(report["loadable"], false);
    let error = report["error"].as_str().unwrap().to_owned();
    assert!(error.len() < 1000 && !error.contains('\n'), "{error}");
    error
}

/// Copies an archive, changing, dropping (`None`) or adding entries.
fn rewrite(from: &Path, to: &Path, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) {
    let mut source = ZipArchive::new(fs::File::open(from).unwrap()).unwrap();
    let mut target = ZipWriter::new(fs::File::create(to).unwrap());
    for index in 0..source.len() {
        let mut entry = source.by_index(index).unwrap();
        let name = entry.name().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::copy(&mut entry, &mut bytes).unwrap();
        if let Some(bytes) = change(&name, bytes) {
            let options =
                SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            target.start_file(name, options).unwrap();
            target.write_all(&bytes).unwrap();
        }
    }
    target.finish().unwrap();
}

#[test]
fn a_model_file_is_described() {
    let (output, report) = check(&sample_file());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(report["loadable"], true);
    assert_eq!(report["inputs"][0]["name"], "x");
    assert_eq!(report["inputs"][1]["type"], "int");
    assert_eq!(report["has_reset_states"], true);
    assert_eq!(report["parameter_bytes"], 2_181_128);
    assert_eq!(report["output"], "Tensor");
}

#[test]
fn files_that_are_not_models_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    for garbage in [
        &b"PK\x05\x06"[..],
        b"#!/bin/sh\n",
        &[0; 4096],
        &[0xff; 4096],
    ] {
        fs::write(&path, garbage).unwrap();
        assert!(refusal(&path).starts_with("it is not a TorchScript file"));
    }
    fs::write(&path, "").unwrap();
    assert_eq!(refusal(&path), "it is empty");
    assert!(refusal(&folder.path().join("absent.pt")).starts_with("the file cannot be read"));
    assert_eq!(refusal(folder.path()), "it is not a regular file");
    assert_eq!(refusal(Path::new("/dev/zero")), "it is not a regular file");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refusal(&pipe), "it is not a regular file");
}

#[test]
fn other_zip_archives_are_refused() {
    let (folder, model) = model(torchscript::affine);
    let path = folder.path().join("other.pt");
    rewrite(&model, &path, |name, bytes| {
        (!name.contains("/code/")).then_some(bytes)
    });
    assert!(
        refusal(&path).contains("pickled weights"),
        "{}",
        refusal(&path)
    );
    rewrite(&model, &path, |name, bytes| {
        (!name.ends_with("/data.pkl")).then_some(bytes)
    });
    assert_eq!(
        refusal(&path),
        "the archive is not a TorchScript module: it has no `data.pkl`"
    );
    rewrite(&model, &path, |name, bytes| {
        (!name.ends_with("/constants.pkl")).then_some(bytes)
    });
    assert_eq!(
        refusal(&path),
        "the archive is not a TorchScript module: it has no `constants.pkl`"
    );
    rewrite(&model, &path, |name, bytes| {
        Some(if name.ends_with(".pkl") {
            b"\x80\x02\xff.".to_vec()
        } else {
            bytes
        })
    });
    assert_eq!(
        refusal(&path),
        "`data.pkl` cannot be read: unknown instruction 0xff"
    );
}

#[test]
fn a_second_top_folder_cannot_stand_for_the_first() {
    let (_folder, path) = model(|path| torchscript::weights(path, 8192));
    let archive = fs::File::options().read(true).write(true).open(&path);
    let mut archive = ZipWriter::new_append(archive.unwrap()).unwrap();
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("other/data/0", options).unwrap();
    archive.write_all(&[0; 8192]).unwrap();
    archive.finish().unwrap();
    assert_eq!(
        refusal(&path),
        "the entries of the archive are not all in one folder"
    );
}

#[test]
fn weights_without_a_forward_are_refused() {
    let (_folder, path) =
        model(|path| Script::new("def other(self) -> int:\n  return 1\n").write(path));
    assert_eq!(
        refusal(&path),
        "the module has no method `forward` (it may hold weights only)"
    );
}

#[test]
fn code_that_does_not_parse_is_refused() {
    let (_folder, path) = model(|path| {
        Script::new("def forward(self, x: Tensor) -> Tensor:\n  return y(((\n").write(path)
    });
    let error = refusal(&path);
    assert!(!error.contains('/'), "{error}");
}

#[test]
fn a_record_shorter_than_declared_is_refused() {
    let (folder, model) = model(|path| torchscript::weights(path, 8192));
    let path = folder.path().join("short.pt");
    rewrite(&model, &path, |name, mut bytes| {
        if name.ends_with("/data/0") {
            bytes.truncate(8188);
        }
        Some(bytes)
    });
    assert_eq!(
        refusal(&path),
        "tensor record `data/0` has 8188 bytes instead of 8192"
    );
    rewrite(&model, &path, |name, bytes| {
        (!name.ends_with("/data/0")).then_some(bytes)
    });
    assert_eq!(
        refusal(&path),
        "tensor record `data/0` has 0 bytes instead of 8192"
    );
}

#[test]
fn a_truncated_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.pt");
    let whole = fs::read(sample_file()).unwrap();
    for part in 0..16 {
        fs::write(&path, &whole[..whole.len() * part / 16]).unwrap();
        refusal(&path);
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    refusal(&path);
}

#[test]
fn a_flipped_byte_in_any_entry_is_found() {
    let (folder, model) = model(|path| torchscript::weights(path, 16_384));
    let path = folder.path().join("flipped.pt");
    let whole = fs::read(&model).unwrap();
    let ranges: Vec<_> = {
        let mut archive = ZipArchive::new(fs::File::open(&model).unwrap()).unwrap();
        (0..archive.len())
            .map(|index| {
                let entry = archive.by_index(index).unwrap();
                let start = entry.data_start().unwrap() as usize;
                start..start + entry.size() as usize
            })
            .collect()
    };
    let mut flips = 0;
    for range in ranges {
        let step = (range.len() / 6).max(1);
        for at in range.step_by(step) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            assert!(refusal(&path).contains("damaged"), "byte {at}");
            flips += 1;
        }
    }
    assert!(flips > 30);
}
