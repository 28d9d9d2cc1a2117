//! The versions of this program and of the libtorch that it has mapped.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use headroom_model_protocol::SandboxMode;

use crate::sandbox;

/// The library that holds most of libtorch.
const LIBRARY: &str = "libtorch_cpu.so";

/// One line for this program, one for libtorch, and one for how hosts are confined here. This process is confined then.
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

/// Confines this process as a host. Only that tells what the system allows.
fn confinement() -> String {
    let program = File::open("/proc/self/exe").map_err(|error| error.to_string());
    let confined = program.and_then(|program| {
        sandbox::confine(SandboxMode::BestEffort, &program).map_err(|failure| failure.message)
    });
    match confined {
        Ok(sandbox) if sandbox.missing.is_empty() => "confinement complete".to_owned(),
        Ok(sandbox) => format!("confinement without {}", sandbox.missing.join("; ")),
        Err(error) => format!("confinement fails: {error}"),
    }
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
