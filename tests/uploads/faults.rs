//! Disks that are full, cannot sync, or have no files without names: nothing is confirmed that is not stored, and nothing
//! else is left.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use headroom_test_support::capability::skip;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use headroom_test_support::{child, native};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use super::limits::{answer, connect, head};
use super::{BINARY, Form, SETTINGS, fetch, files, folder, letters, refused, send, store, text};

/// Faults of a server's file operations (`faults.c`).
pub(super) struct Faults {
    folder: TempDir,
    library: PathBuf,
}

impl Faults {
    /// Builds the library.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uploads/faults.c");
        let library = native::library(&source, folder.path());
        Self { folder, library }
    }

    pub(super) fn start(&self, settings: &str) -> Server {
        let (folder, library) = (self.folder.path(), &self.library);
        let options = Options::new(BINARY).settings(SETTINGS).settings(settings);
        let options = options.variable("LD_PRELOAD", library.to_str().unwrap());
        Server::start(options.variable("UPLOAD_FAULTS", folder.to_str().unwrap()))
    }

    /// Sets a fault for the paths that match.
    pub(super) fn set(&self, fault: &str, pattern: &str) {
        let (new, path) = (
            self.folder.path().join("new"),
            self.folder.path().join(fault),
        );
        fs::write(&new, pattern).unwrap();
        fs::rename(new, path).unwrap();
    }

    pub(super) fn clear(&self, fault: &str) {
        fs::remove_file(self.folder.path().join(fault)).unwrap();
    }

    /// What was done since the last call.
    fn take_log(&self) -> Vec<String> {
        let path = self.folder.path().join("log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::remove_file(path).ok();
        text.lines().map(str::to_owned).collect()
    }
}

async fn wait_for_files(server: &Server, number: usize) {
    wait_for_async(DEADLINE, async || match files(&folder(server)) {
        found if found.len() == number => Ok(()),
        found => Err(format!("{found:?}")),
    })
    .await;
}

#[tokio::test]
async fn nothing_is_confirmed_that_could_not_be_synced() {
    let faults = Faults::new();
    let server = faults.start("uploads.sweep_interval = '50ms'");
    store(&server, "a.txt", b"opens the folder").await;
    // The file, the folder of its folder, its folder.
    for (number, pattern) in ["*/incoming/*", "*/content", "*/content/??"]
        .into_iter()
        .enumerate()
    {
        let content = text(700_000 + number);
        let form = Form::default().file("b.txt", "text/plain", &content);
        faults.set("fsync", pattern);
        refused(&server, form.clone(), 503).await;
        let list = server.get_json("/api/uploads").await.ok();
        assert_eq!(
            list["uploads"].as_array().unwrap().len(),
            1 + number,
            "{pattern}: {list}"
        );
        // Also if the same bytes come again, whose pages the kernel may take for written.
        refused(&server, form, 503).await;
        wait_for_files(&server, 1 + number).await;
        faults.clear("fsync");
        let upload = store(&server, "b.txt", &content).await;
        assert!(fetch(&server, &upload).await == content);
    }
    wait_for_files(&server, 4).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_synced_is_not_opened() {
    let faults = Faults::new();
    for pattern in ["*/incoming/*", "*/uploads"] {
        faults.set("fsync", pattern);
        let server = faults.start("");
        let form = Form::default().file("a.txt", "text/plain", b"early");
        refused(&server, form.clone(), 503).await;
        faults.clear("fsync");
        // The loader tries again after a while.
        wait_for_async(DEADLINE, async || {
            match send(&server, form.clone()).await.status().as_u16() {
                201 => Ok(()),
                status => Err(status),
            }
        })
        .await;
        wait_for_files(&server, 1).await;
    }
}

#[tokio::test]
async fn a_name_is_synced_after_it_was_given_and_a_file_is_synced_before_it_replaces_another() {
    let faults = Faults::new();
    let server = faults.start("");
    store(&server, "a.txt", b"opens the folder").await;
    faults.take_log();
    let upload = store(&server, "b.txt", &text(2_000_000)).await;
    let name = upload["blake3"].as_str().unwrap();
    let folder = format!("/content/{}", &name[..2]);
    let assert_order = |given: &str, calls: [&str; 3]| {
        let log = faults.take_log();
        let places = calls.map(|call| {
            let (call, path) = call.split_once(' ').unwrap();
            log.iter()
                .position(|line| {
                    line.starts_with(&format!("{call} "))
                        && (line.ends_with(path) || line.contains(&format!("{path}/#")))
                })
                .unwrap_or_else(|| panic!("{given}: no {call} {path}: {}", log.join("\n")))
        });
        assert!(places.is_sorted(), "{given}: {log:?}");
        log
    };
    let (link, rename) = (format!("link {name}"), format!("rename {name}"));
    let (bytes, named) = ("fsync /incoming", format!("fsync {folder}"));
    let log = assert_order("new", [&link, bytes, &named]);
    assert!(
        log.iter()
            .any(|line| line.starts_with("fsync ") && line.ends_with("/content")),
        "{log:?}"
    );
    store(&server, "c.txt", &text(2_000_000)).await;
    assert_order("replaced", [bytes, &rename, &named]);
}

#[tokio::test]
async fn a_file_system_without_nameless_files_keeps_nothing_else_either() {
    let faults = Faults::new();
    faults.set("tmpfile", "");
    let mut server = faults.start("");
    let dir = folder(&server);
    let content = text(1_000_000);
    let upload = store(&server, "a.txt", &content).await;
    assert!(fetch(&server, &upload).await == content);
    // The same bytes again, and two files of the same bytes at once.
    let twice =
        Form::default()
            .file("a.txt", "text/plain", &content)
            .file("b.txt", "text/plain", &content);
    assert_eq!(send(&server, twice).await.status(), 201);
    let wrong = Form::default().file("a.txt", "text/plain", &[&content[..], b"\0"].concat());
    refused(&server, wrong, 422).await;
    wait_for_files(&server, 1).await;

    let half = || {
        let form = Form::default()
            .file("a.txt", "text/plain", &text(900_000))
            .open();
        let half = [head(1 << 20).into_bytes(), form[..800_000].to_vec()].concat();
        connect(&server, &half)
    };
    let leaves = half();
    wait_for_files(&server, 2).await;
    drop(leaves);
    wait_for_files(&server, 1).await;
    let stays = half();
    wait_for_files(&server, 2).await;
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    drop(stays);
    assert_eq!(files(&dir).len(), 2);
    let data = server.folder().join("data");
    let again = faults.start(&format!("data.dir = '{}'", data.display()));
    assert!(fetch(&again, &upload).await == content);
    wait_for(DEADLINE, || match files(&dir).len() {
        1 => Ok(()),
        found => Err(found),
    });
}

/// A disk of its own for the uploads of one server. The kernel removes it with the server.
struct SmallDisk {
    server: Server,
    folder: TempDir,
}

impl SmallDisk {
    const BYTES: u64 = 16 << 20;

    /// `None` where disks cannot be mounted.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let path = folder.path().display();
        let mount = format!(
            "mount -t tmpfs -o mode=711,size={} tmpfs '{path}' && exec \"$@\"",
            Self::BYTES
        );
        let launcher = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
        let mut probe = child::command("unshare");
        probe.args(&launcher[1..]).arg("true");
        let probed = child::output(&mut probe, DEADLINE).unwrap();
        if !probed.status.success() {
            skip("disks cannot be mounted");
            return None;
        }
        // The bytes that stay free are fewer than a piece, so that the disk itself gets full too.
        let settings = format!("uploads.disk_free_min = '4KiB'\nuploads.dir = '{path}/uploads'");
        let options = Options::new(BINARY).settings(&settings);
        let server = Server::start(options.launched_by(&launcher));
        let disk = Self { server, folder };
        let blocks = statvfs(&disk.path()).unwrap();
        assert_eq!(
            blocks.blocks() * blocks.fragment_size(),
            Self::BYTES,
            "it is another disk"
        );
        Some(disk)
    }

    /// The disk, as the server sees it.
    fn path(&self) -> PathBuf {
        let below = self.folder.path().strip_prefix("/").unwrap();
        Path::new(&format!("/proc/{}/root", self.server.pid())).join(below)
    }

    fn free(&self) -> u64 {
        let disk = statvfs(&self.path()).unwrap();
        disk.blocks_available() * disk.fragment_size()
    }

    async fn wait_for_free(&self, wanted: u64) {
        wait_for_async(DEADLINE, async || match self.free() {
            found if found == wanted => Ok(()),
            found => Err(format!("{found} of {wanted} bytes are free")),
        })
        .await;
    }

    /// Uploads a text of so many bytes in chunks, which announce no length. Returns the answer.
    fn upload_chunked(&self, bytes: usize) -> String {
        let form = Form::default().file("a.txt", "text/plain", &text(bytes));
        let head = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
        let mut stream = connect(&self.server, head.as_bytes());
        for piece in form.body().chunks(100_000) {
            let chunk = [
                format!("{:x}\r\n", piece.len()).as_bytes(),
                piece,
                b"\r\n".as_slice(),
            ]
            .concat();
            // The server may refuse, and close, before all is sent.
            if stream.write_all(&chunk).is_err() {
                return answer(stream);
            }
        }
        stream.write_all(b"0\r\n\r\n").ok();
        answer(stream)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_does_not_fit_and_keeps_nothing_of_it() {
    let Some(disk) = SmallDisk::start() else {
        return;
    };
    let server = &disk.server;
    let small = store(server, "a.txt", b"stays").await;
    let before = disk.free();
    // In the middle, by the bytes that must stay free.
    let large = disk.upload_chunked(40 << 20);
    assert!(large.starts_with("HTTP/1.1 507 "), "{large}");
    disk.wait_for_free(before).await;
    // By the announced length.
    let form = Form::default().file("a.txt", "text/plain", &text(40 << 20));
    refused(server, form, 507).await;
    disk.wait_for_free(before).await;
    // By the kernel.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; (before - 150_000) as usize]).unwrap();
    let left = disk.free();
    let last_piece = disk.upload_chunked(400_000);
    assert!(last_piece.starts_with("HTTP/1.1 507 "), "{last_piece}");
    disk.wait_for_free(left).await;
    fs::remove_file(ballast).unwrap();
    disk.wait_for_free(before).await;

    // Many at once: some fit.
    let contents: Vec<_> = (0..12_u64).map(|seed| letters(3 << 20, seed)).collect();
    let sent = contents.iter().map(|content| {
        let form = Form::default().file("a.txt", "text/plain", content);
        send(server, form)
    });
    let mut stored = 0;
    let answers = futures_util::future::join_all(sent).await;
    for (answer, content) in answers.into_iter().zip(&contents) {
        let status = answer.status();
        let body: serde_json::Value = answer.json().await.unwrap();
        match status.as_u16() {
            201 => {
                assert!(fetch(server, &body["uploads"][0]).await == *content);
                stored += 1;
            }
            status => assert_eq!(status, 507, "{body}"),
        }
    }
    assert!(stored <= 5, "{stored} files");
    disk.wait_for_free(before - stored * (3 << 20)).await;
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"].as_array().unwrap().len() as u64, 1 + stored);
    assert!(fetch(server, &small).await == b"stays");
    store(server, "b.txt", &text(100_000)).await;
}
