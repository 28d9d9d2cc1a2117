//! What files that arrive take of the page cache.

use std::path::Path;

use headroom_test_support::child;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::Value;

use super::{folder, noise, start, store, tus};

const LARGE: usize = 48 << 20;
/// So much leaves at least, if the disk takes the bytes nearly as fast as they come.
const LEAVES: usize = 4 << 20;

/// Prints how many bytes of a file are in the page cache.
const CACHED: &str = "
import ctypes, mmap, sys
file = open(sys.argv[1], 'r+b')
pages = mmap.mmap(file.fileno(), 0)
count = (len(pages) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
resident = (ctypes.c_ubyte * count)()
start = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(pages)))
assert ctypes.CDLL(None).mincore(start, ctypes.c_size_t(len(pages)), resident) == 0
print(sum(page & 1 for page in resident) * mmap.PAGESIZE)
";

fn cached(file: &Path) -> usize {
    let mut command = child::command("python3");
    let output = child::output(command.args(["-c", CACHED]).arg(file), DEADLINE).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().unwrap_or_else(|_| panic!("{text}"))
}

/// An archive with so many bytes.
fn archive(bytes: usize) -> Vec<u8> {
    const MAKE: &str = "
import io, os, sys, zipfile
with zipfile.ZipFile(sys.stdout.buffer, 'w') as archive:
    archive.writestr('noise', os.urandom(int(sys.argv[1])))
";
    let mut command = child::command("python3");
    let output = child::output(command.args(["-c", MAKE, &bytes.to_string()]), DEADLINE);
    output.unwrap().stdout
}

/// The bytes of a stored file that are in the page cache.
fn cached_of(server: &Server, upload: &Value) -> usize {
    let hash = upload["blake3"].as_str().unwrap();
    cached(&folder(server).join("content").join(&hash[..2]).join(hash))
}

#[tokio::test]
async fn a_large_file_leaves_the_page_cache_while_it_arrives() {
    let server = start("");
    let small = store(&server, "a.txt", &super::text(100_000)).await;
    assert!(cached_of(&server, &small) >= 100_000);
    if statfs(&folder(&server)).unwrap().filesystem_type() == TMPFS_MAGIC {
        println!("left out: the files are in memory");
        return;
    }
    // The check of an archive reads it again.
    let archive = archive(LARGE);
    wait_for_async(DEADLINE, async || {
        let upload = store(&server, "a.zip", &archive).await;
        let cached = cached_of(&server, &upload);
        (cached >= LARGE).then_some(()).ok_or(cached)
    })
    .await;
    let mut content = b"%PDF-1.7\n".to_vec();
    content.extend(noise(LARGE, 1));
    content.extend(b"\nstartxref\n0\n%%EOF\n");
    // What the disk has not taken yet stays. So a slow disk may need another try.
    wait_for_async(DEADLINE, async || {
        let upload = store(&server, "a.pdf", &content).await;
        let cached = cached_of(&server, &upload);
        (cached < LARGE - LEAVES).then_some(()).ok_or(cached)
    })
    .await;
    wait_for_async(DEADLINE, async || {
        let path = tus::begin_file(&server, "a.pdf", content.len()).await;
        let answer = tus::send(&server, &path, 0, &content, &[]).await;
        let id = answer.headers()["upload-id"].to_str().unwrap();
        let upload = server.get_json(&format!("/api/uploads/{id}")).await.ok();
        let cached = cached_of(&server, &upload);
        (cached < LARGE - LEAVES).then_some(()).ok_or(cached)
    })
    .await;
}
