#!/usr/bin/env bash
# Puts everything in place that building, running and testing Headroom need, and does nothing where it is there
# already. Writes only to the cache folder (HEADROOM_CACHE, by default ~/.cache/headroom) and, for missing
# compilers and servers, through apt.
#
# Usage: scripts/setup.sh [NEED...]
# A need is the name of a need_ function without its prefix; what building, running and testing use is the default.
set -euo pipefail

cd "$(dirname "$0")/.."
SETUP=scripts/setup
# shellcheck source=scripts/env.sh
. scripts/env.sh
# shellcheck source=scripts/setup/base.sh
. "$SETUP/base.sh"
# shellcheck source=scripts/setup/tools.sh
. "$SETUP/tools.sh"
# shellcheck source=scripts/setup/libtorch.sh
. "$SETUP/libtorch.sh"
# shellcheck source=scripts/setup/samples.sh
. "$SETUP/samples.sh"
# shellcheck source=scripts/setup/client.sh
. "$SETUP/client.sh"
# shellcheck source=scripts/setup/servers.sh
. "$SETUP/servers.sh"
# shellcheck source=scripts/setup/peers.sh
. "$SETUP/peers.sh"

[ $# -gt 0 ] || set -- rust make compiler libtorch sample_model speech_samples postgres redis
for need in "$@"; do
  declare -F "need_$need" >/dev/null || die "no need is called '$need'"
  "need_$need"
done
say "all in place (cache: $HEADROOM_CACHE)"
