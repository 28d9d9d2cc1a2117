#!/usr/bin/env bash
# Installs everything that building, running and testing Headroom need, unless it is installed already. Writes only to
# the cache folder (HEADROOM_CACHE, by default ~/.cache/headroom). Missing compilers and servers are installed through
# apt.
#
# Usage: scripts/setup.sh [NEED...]
# NEED is the name of a need_ function without its prefix. The default is everything for building, running and testing.
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
# shellcheck source=scripts/setup/torch_python.sh
. "$SETUP/torch_python.sh"
# shellcheck source=scripts/setup/samples.sh
. "$SETUP/samples.sh"
# shellcheck source=scripts/setup/client.sh
. "$SETUP/client.sh"
# shellcheck source=scripts/setup/browser.sh
. "$SETUP/browser.sh"
# shellcheck source=scripts/setup/upload_clients.sh
. "$SETUP/upload_clients.sh"
# shellcheck source=scripts/setup/chain_clients.sh
. "$SETUP/chain_clients.sh"
# shellcheck source=scripts/setup/shell_checks.sh
. "$SETUP/shell_checks.sh"
# shellcheck source=scripts/setup/schemathesis.sh
. "$SETUP/schemathesis.sh"
# shellcheck source=scripts/setup/servers.sh
. "$SETUP/servers.sh"
# shellcheck source=scripts/setup/prometheus.sh
. "$SETUP/prometheus.sh"
# shellcheck source=scripts/setup/clamav.sh
. "$SETUP/clamav.sh"
# shellcheck source=scripts/setup/object_store.sh
. "$SETUP/object_store.sh"
# shellcheck source=scripts/setup/foundry.sh
. "$SETUP/foundry.sh"
# shellcheck source=scripts/setup/peers.sh
. "$SETUP/peers.sh"

[ $# -gt 0 ] || set -- rust make compiler libtorch sample_model speech_samples postgres redis clamav
for need in "$@"; do
  declare -F "need_$need" >/dev/null || die "unknown argument '$need'"
  "need_$need"
done
say "complete (cache: $HEADROOM_CACHE)"
