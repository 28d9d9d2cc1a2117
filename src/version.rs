//! Which build of the program this is.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from, if the build knows it: `make build` passes it on.
pub const COMMIT: &str = match option_env!("HEADROOM_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => UNKNOWN_COMMIT,
};

/// In the place of a commit that the build does not know.
pub const UNKNOWN_COMMIT: &str = "unknown";

/// The profile that it was built with.
pub const PROFILE: &str = if cfg!(debug_assertions) {
    "debug"
} else {
    "release"
};
