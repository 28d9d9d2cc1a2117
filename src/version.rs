//! Which build of the program this is.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from, if the build knows it.
pub const COMMIT: &str = match option_env!("HEADROOM_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The profile that it was built with.
pub const PROFILE: &str = if cfg!(debug_assertions) {
    "debug"
} else {
    "release"
};
