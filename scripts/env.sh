# shellcheck shell=bash
# Where Headroom keeps what it fetches. Sourced by the Makefile's recipes and by setup; for plain cargo
# commands: `. scripts/env.sh && cargo test -p headroom-actors`. Sets variables, prints nothing.

: "${HOME:=$(cd ~ && pwd)}"

LIBTORCH_VERSION=2.13.0 # the one that the `tch` in Cargo.toml is made for

export HEADROOM_CACHE="${HEADROOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/headroom}"
export LIBTORCH="${LIBTORCH:-$HEADROOM_CACHE/libtorch-$LIBTORCH_VERSION}"

# rustup's folder is often missing from the PATH of shells without a login.
if [ -d "$HOME/.cargo/bin" ] && ! command -v cargo >/dev/null 2>&1; then
  export PATH="$HOME/.cargo/bin:$PATH"
fi
