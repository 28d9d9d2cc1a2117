# shellcheck shell=bash
# Tools for building and checking. A missing required tool is an error; for an optional one a
# message says what is skipped.

need_rust() {
  local wanted found
  { have cargo && have rustc; } ||
    die "cargo or rustc missing: install Rust with rustup (https://rustup.rs) and run this again"
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  found=$(rustc --version | cut -d' ' -f2)
  [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
    die "rustc $found is too old, $wanted or newer is needed: run 'rustup update stable'"
}

need_python() {
  have python3 || apt_install python3 python3-pip || exit 1
  bounded 60 python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip || exit 1
}

need_compiler() {
  { have g++ || have c++ || [ -n "${CXX:-}" ]; } && have cc && have nm && have strip && return
  apt_install g++ binutils || exit 1
}

need_make() {
  have make || apt_install make || exit 1
}

# The test runner. .config/nextest.toml sets time limits and the setup script of a run.
NEXTEST_VERSION=0.9.143
NEXTEST_OLDEST=0.9.100

need_nextest() {
  local found
  found=$(cargo nextest --version 2>/dev/null | sed -n '1s/^cargo-nextest \([0-9.]*\).*/\1/p') || found=
  if [ -n "$found" ] &&
    [ "$(printf '%s\n%s\n' "$NEXTEST_OLDEST" "$found" | sort -V | head -n 1)" = "$NEXTEST_OLDEST" ]; then return; fi
  say "installing cargo-nextest $NEXTEST_VERSION from its source (takes minutes, only once)"
  bounded 2400 cargo install -q cargo-nextest --locked --version "$NEXTEST_VERSION" ||
    die "cargo-nextest cannot be installed: run 'cargo install cargo-nextest --locked --version $NEXTEST_VERSION'"
}

need_lint_tools() {
  cargo fmt --version >/dev/null 2>&1 || die "rustfmt missing: run 'rustup component add rustfmt'"
  cargo clippy --version >/dev/null 2>&1 || die "clippy missing: run 'rustup component add clippy'"
  have shellcheck || apt_install shellcheck || true # `make lint` reports that it is skipped
}
