use super::*;

/// A writer of archives that can lie.
pub(super) struct Zip {
    entries: Vec<Entry>,
    comment: Vec<u8>,
    /// Bytes between the entries and the directory.
    gap: Vec<u8>,
    count: Option<u16>,
    wide: bool,
}

pub(super) struct Entry {
    name: Vec<u8>,
    data: Vec<u8>,
    local_name: Option<Vec<u8>>,
    flags: u16,
    method: u16,
    unpacked: Option<u32>,
    unix_mode: u32,
    /// Its place in the directory, and its local header only there.
    at: Option<u32>,
}

impl Zip {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            comment: Vec::new(),
            gap: Vec::new(),
            count: None,
            wide: false,
        }
    }

    pub(super) fn entry(self, name: impl AsRef<[u8]>, data: &[u8]) -> Self {
        self.with(name, data, |_| {})
    }

    fn with(mut self, name: impl AsRef<[u8]>, data: &[u8], edit: impl FnOnce(&mut Entry)) -> Self {
        let mut entry = Entry {
            name: name.as_ref().to_vec(),
            data: data.to_vec(),
            local_name: None,
            flags: 0,
            method: 0,
            unpacked: None,
            unix_mode: 0,
            at: None,
        };
        edit(&mut entry);
        self.entries.push(entry);
        self
    }

    pub(super) fn build(self) -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            let packed = entry.data.len() as u32;
            let unpacked = entry.unpacked.unwrap_or(packed);
            let sizes = [packed.to_le_bytes(), unpacked.to_le_bytes()].concat();
            let at = entry.at.unwrap_or(bytes.len() as u32);
            let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
            let shared = |name: &[u8]| {
                let head = [20_u16, entry.flags, entry.method, 0, 0].map(u16::to_le_bytes);
                let name_len = (name.len() as u16).to_le_bytes();
                [head.as_flattened(), &[0; 4], &sizes, &name_len].concat()
            };
            if entry.at.is_none() {
                bytes.extend(b"PK\x03\x04");
                bytes.extend(shared(local_name));
                bytes.extend([0; 2]);
                bytes.extend(local_name);
                bytes.extend(&entry.data);
            }
            directory.extend(b"PK\x01\x02\x14\x03");
            let mut shared = shared(&entry.name);
            let mut extra = Vec::new();
            if self.wide {
                shared[14..22].fill(0xff);
                extra.extend(b"\x99\x99\x01\0a\x01\0\x18\0");
                for number in [unpacked, packed, at] {
                    extra.extend(u64::from(number).to_le_bytes());
                }
            }
            directory.extend(&shared);
            directory.extend((extra.len() as u16).to_le_bytes());
            directory.extend([0; 6]);
            directory.extend((entry.unix_mode << 16).to_le_bytes());
            directory.extend(if self.wide { u32::MAX } else { at }.to_le_bytes());
            directory.extend(&entry.name);
            directory.extend(extra);
        }
        bytes.extend(&self.gap);
        let start = bytes.len();
        bytes.extend(&directory);
        let mut count = self.count.unwrap_or(self.entries.len() as u16);
        let (mut len, mut place) = (directory.len() as u32, start as u32);
        if self.wide {
            let end = bytes.len() as u64;
            bytes.extend(b"PK\x06\x06");
            bytes.extend(44_u64.to_le_bytes());
            bytes.extend([0; 12]);
            for number in [count.into(), count.into(), u64::from(len), u64::from(place)] {
                bytes.extend(number.to_le_bytes());
            }
            bytes.extend(b"PK\x06\x07\0\0\0\0");
            bytes.extend(end.to_le_bytes());
            bytes.extend(1_u32.to_le_bytes());
            (count, len, place) = (u16::MAX, u32::MAX, u32::MAX);
        }
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        bytes.extend(count.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(place.to_le_bytes());
        bytes.extend((self.comment.len() as u16).to_le_bytes());
        bytes.extend(&self.comment);
        bytes
    }
}

pub(super) fn torch_script() -> Vec<u8> {
    let zip = Zip::new()
        .entry("m/data.pkl", b"a")
        .entry("m/code/__torch__.py", b"b");
    zip.entry("m/constants.pkl", b"c")
        .entry("m/version", b"3")
        .build()
}

pub(super) fn exported_program() -> Vec<u8> {
    let zip = Zip::new()
        .entry("m/archive_format", b"pt2")
        .entry("m/models/model.json", b"{}");
    zip.entry("m/data/weights/model.pt", b"c").build()
}

fn archive(entries: u64, unpacked_bytes: u64) -> Detail {
    Detail::Archive {
        entries,
        unpacked_bytes,
    }
}

#[test]
fn sane_archives_are_accepted() {
    let ok = |zip: Zip, detail| assert_ok(Kind::Zip, &zip.build(), detail);
    let two = || Zip::new().entry("a/", b"").entry("a/b..c/ä.txt", b"1234");
    ok(Zip::new(), archive(0, 0));
    ok(two(), archive(2, 4));
    ok(
        Zip {
            wide: true,
            ..two()
        },
        archive(2, 4),
    );
    ok(
        Zip {
            comment: vec![b'c'; 65_535],
            ..two()
        },
        archive(2, 4),
    );
    let packed = Zip::new().with("a", b"1234", |entry| {
        entry.method = 8;
        entry.unpacked = Some(500);
        entry.unix_mode = 0o10_0644;
    });
    ok(packed, archive(1, 500));
    let many = (0..5000).fold(Zip::new(), |zip, at| zip.entry(format!("{at}"), b"1"));
    let file = many.build();
    let (_, facts) = run(
        Kind::Zip,
        &Limits::default(),
        &file_of(&file),
        &file,
        file.len(),
    );
    assert_eq!(facts.unwrap().detail, archive(5000, 5000));
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for (name, problem) in [
        ("", "entry 2 of the archive has no name"),
        ("/etc/passwd", "has an absolute path"),
        ("C:/a", "has an absolute path"),
        ("c:a", "has an absolute path"),
        ("../a", "has a path to a parent folder"),
        ("a/../../b", "has a path to a parent folder"),
        ("a/..", "has a path to a parent folder"),
        ("a\\..\\b", "has a backslash in its name"),
        ("\\\\host\\share", "has a backslash in its name"),
        ("a\0.txt", "has a control character in its name"),
        ("a\n.txt", "has a control character in its name"),
        (&"a".repeat(4097), "has a name longer than 4096 bytes"),
    ] {
        let zip = Zip::new().entry("good", b"1").entry(name, b"2");
        assert_fault(Kind::Zip, &zip.build(), problem);
    }
}

#[test]
fn links_devices_and_encrypted_entries_are_refused() {
    for mode in [0o12_0777, 0o2_0600, 0o6_0600, 0o1_0600, 0o14_0600] {
        let zip = Zip::new().with("a", b"/etc/passwd", |entry| entry.unix_mode = mode);
        assert_fault(Kind::Zip, &zip.build(), "is a link or a device");
    }
    for flags in [1, 0x41, 0x2000] {
        let zip = Zip::new().with("a", b"1", |entry| entry.flags = flags);
        assert_fault(
            Kind::Zip,
            &zip.build(),
            "is encrypted, so it cannot be scanned",
        );
    }
}

#[test]
fn entries_that_contradict_themselves_or_each_other_are_refused() {
    let one = || Zip::new().entry("a", b"1234");
    for (zip, problem) in [
        (
            one().entry("a", b"5"),
            "entry 2 of the archive has the name of an entry before it",
        ),
        (
            one().with("b", b"5", |entry| entry.at = Some(0)),
            "differs from what the directory",
        ),
        (
            one().with("b", b"5", |entry| entry.at = Some(3)),
            "is not where the directory says",
        ),
        (
            one().with("b", b"5", |entry| entry.at = Some(1 << 30)),
            "is not where the directory",
        ),
        (
            one().with("b", b"5", |entry| entry.local_name = Some(b"c".to_vec())),
            "differs from",
        ),
        (
            one().with("b", b"5", |entry| entry.unpacked = Some(6)),
            "but has two sizes",
        ),
        (
            Zip {
                count: Some(1),
                ..one().entry("b", b"")
            },
            "the directory has more entries than it says",
        ),
        (
            Zip {
                count: Some(2),
                ..one()
            },
            "entry 2 of the archive is cut short",
        ),
    ] {
        assert_fault(Kind::Zip, &zip.build(), problem);
    }
    // An entry whose data holds another one.
    let inner = Zip::new().entry("b", b"5").build();
    let zip = Zip::new().entry("a", &inner[..32]);
    let zip = zip.with("b", b"5", |entry| entry.at = Some(31));
    assert_fault(
        Kind::Zip,
        &zip.build(),
        "entry 2 of the archive shares bytes with another",
    );
    // The last one's data reaches into the directory.
    let mut bytes = one().build();
    let directory = bytes
        .windows(4)
        .rposition(|window| window == b"PK\x01\x02")
        .unwrap();
    bytes[directory + 20] = 5;
    bytes[directory + 24] = 5;
    assert_fault(Kind::Zip, &bytes, "does not end before the directory");
    // Streams would read an entry that the directory does not have.
    let mut hidden = Zip::new().entry("hidden", b"1").build();
    hidden.truncate(37);
    let zip = Zip {
        gap: hidden.clone(),
        ..Zip::new()
    };
    assert_fault(
        Kind::Zip,
        &zip.build(),
        "an entry stands before the directory",
    );
    let shown = Zip::new().entry("a", b"1").build();
    let mut bytes = [hidden, shown].concat();
    let end = bytes.len();
    bytes[end - 6] = 37 + 32;
    bytes[37 + 32 + 42] = 37;
    assert_fault(
        Kind::Zip,
        &bytes,
        "is the first one, but does not start the file",
    );
}

#[test]
fn entries_and_their_ratio_are_bounded() {
    let limits = Limits {
        zip_entries_max: 2,
        zip_ratio_max: 10_000,
        ..Limits::default()
    };
    let bomb = |unpacked| {
        Zip::new().entry("a", b"1").with("b", b"5", |entry| {
            entry.method = 8;
            entry.unpacked = Some(unpacked);
        })
    };
    let length = bomb(0).build().len() as u32;
    check_with(Kind::Zip, &limits, &bomb(length * 10_000 - 1).build()).unwrap();
    let fault = check_with(Kind::Zip, &limits, &bomb(length * 10_000).build()).unwrap_err();
    assert!(fault.contains("unpacked bytes, more than"), "{fault}");
    let three = bomb(0).entry("c", b"1");
    let fault = check_with(Kind::Zip, &limits, &three.build()).unwrap_err();
    assert_eq!(
        fault,
        "the archive has 3 entries, more than the 2 that are accepted"
    );
    // Small archives may have any ratio.
    check(Kind::Zip, &bomb(1 << 20 >> 1).build()).unwrap();
    assert_fault(Kind::Zip, &bomb(2 << 20).build(), "unpacked bytes");
}

#[test]
fn the_end_of_the_directory_is_found_and_unambiguous() {
    let one = || Zip::new().entry("a", b"1234");
    let more = [one().build().as_slice(), b"more"].concat();
    assert_fault(Kind::Zip, &more, "there is no end of the directory");
    let comment = Zip::new().build();
    let two = Zip { comment, ..one() }.build();
    assert_fault(Kind::Zip, &two, "there are two ends of the directory");
    let gap = Zip {
        gap: b"gap".to_vec(),
        ..one()
    }
    .build();
    assert_ok(Kind::Zip, &gap, archive(1, 4));
    let end = one().build().len() - 22;
    for (at, byte, problem) in [
        (4, 1, "the archive is one part of several"),
        (8, 2, "the archive is one part of several"),
        (12, 1, "the directory is not where its end says"),
        (16, 1, "the directory is not where its end says"),
    ] {
        let mut bytes = one().build();
        bytes[end + at] = byte;
        assert_fault(Kind::Zip, &bytes, problem);
    }
    let wide = Zip {
        wide: true,
        ..one()
    }
    .build();
    let locator = wide.len() - 42;
    for (at, byte, problem) in [
        (locator + 4, 1, "the archive is one part of several"),
        (
            locator + 8,
            1,
            "the end of the directory is not where it should be",
        ),
        (
            locator - 52,
            1,
            "the end of the directory has a wrong length",
        ),
        (locator - 40, 1, "the archive is one part of several"),
        (locator - 32, 2, "the archive is one part of several"),
        (
            wide.len() - 11,
            1,
            "the two ends of the directory contradict each other",
        ),
    ] {
        let mut bytes = wide.clone();
        bytes[at] = byte;
        assert_fault(Kind::Zip, &bytes, problem);
    }
}

#[test]
fn models_are_told_apart_by_their_entries() {
    let plain = Zip::new().entry("a.txt", b"1").build();
    let pickle = Zip::new()
        .entry("m/data.pkl", b"1")
        .entry("m/data/0", b"2")
        .build();
    let flat = Zip::new()
        .entry("serialized_exported_program.json", b"{}")
        .build();
    let native = Zip::new()
        .entry("m/archive_format", b"pt2")
        .entry("m/data/aotinductor/model/a.so", b"2")
        .build();
    let (script, exported) = (torch_script(), exported_program());
    assert_ok(Kind::TorchScript, &script, archive(4, 4));
    for bytes in [&exported, &flat, &native] {
        check(Kind::ExportedProgram, bytes).unwrap();
        assert_fault(Kind::TorchScript, bytes, "give it the extension .pt2");
    }
    assert_fault(Kind::ExportedProgram, &script, "give it the extension .pt");
    assert_fault(
        Kind::TorchScript,
        &pickle,
        "export the model as TorchScript",
    );
    assert_fault(
        Kind::TorchScript,
        &plain,
        "the archive holds no TorchScript code",
    );
    assert_fault(
        Kind::ExportedProgram,
        &plain,
        "the archive holds no exported program",
    );
    assert_fault(
        Kind::ExportedProgram,
        &pickle,
        "the archive holds no exported program",
    );
    let legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    assert_fault(Kind::TorchScript, legacy, "export the model as TorchScript");
}
