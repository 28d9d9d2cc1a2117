//! The versions of this program and of the libtorch that it has mapped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::sandbox;

/// The library that holds most of libtorch.
const LIBRARY: &str = "libtorch_cpu.so";

/// One line for this program, one for libtorch, and one for what the kernel has for the confinement of models.
pub(crate) fn lines() -> [String; 3] {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let libtorch = match folder(&maps) {
        Some(folder) => format!("libtorch {} in {}", version(&folder), folder.display()),
        None => "libtorch unknown".to_owned(),
    };
    [
        concat!("headroom-model-host ", env!("CARGO_PKG_VERSION")).to_owned(),
        libtorch,
        confinement(),
    ]
}

fn confinement() -> String {
    let landlock = match sandbox::landlock_abi() {
        Some(abi) => format!("landlock {abi}"),
        None => "no landlock".to_owned(),
    };
    let seccomp = match sandbox::has_seccomp() {
        true => "seccomp",
        false => "no seccomp",
    };
    format!("confinement by {landlock}, {seccomp}")
}

/// The folder of the mapped libtorch. The paths in `maps` begin at the first slash of their lines.
fn folder(maps: &str) -> Option<PathBuf> {
    let paths = maps
        .lines()
        .filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    let mut libraries = paths.filter(|path| path.ends_with(LIBRARY));
    libraries.next()?.parent().map(Path::to_owned)
}

/// The version that the release of libtorch has in a file beside the folder of the libraries.
fn version(folder: &Path) -> String {
    let file = folder.join("../build-version");
    fs::read_to_string(file).map_or("unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_that_of_the_mapped_library() {
        let maps = "7f00-7f01 r--p 00000000 08:01 12  /usr/lib/libc.so.6\n\
                    7f01-7f02 r-xp 00000000 00:00 0\n\
                    7f02-7f03 r-xp 00000000 08:01 13  /opt/lib torch/lib/libtorch_cpu.so\n";
        assert_eq!(folder(maps), Some(PathBuf::from("/opt/lib torch/lib")));
        assert_eq!(folder("7f00-7f01 rw-p 00000000 00:00 0 [heap]\n"), None);
    }
}
