# shellcheck shell=bash
# Sets the paths of libtorch and of the cache, and prints nothing. The Makefile's recipes and the
# setup source it. Source it before plain cargo commands: `. scripts/env.sh && cargo test -p headroom-actors`.

: "${HOME:=$(cd ~ && pwd)}"

LIBTORCH_VERSION=2.13.0 # the version that the `tch` in Cargo.toml needs

export HEADROOM_CACHE="${HEADROOM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/headroom}"
export LIBTORCH="${LIBTORCH:-$HEADROOM_CACHE/libtorch-$LIBTORCH_VERSION}"

# The PATH of a shell without a login often lacks rustup's folder.
if [ -d "$HOME/.cargo/bin" ] && ! command -v cargo >/dev/null 2>&1; then
  export PATH="$HOME/.cargo/bin:$PATH"
fi
