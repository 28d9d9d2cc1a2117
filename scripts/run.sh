#!/usr/bin/env bash
# Starts the release build with config/default.toml, the development profile and the sample model; `make run` builds first.
# Environment variables HEADROOM__SECTION__KEY override the values that this script sets.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

programs=${CARGO_TARGET_DIR:-target}/release
for program in headroom headroom-model-host; do
  if [ ! -x "$programs/$program" ]; then
    echo "run.sh: $programs/$program is missing: this checkout is not built for release; run 'make run', which builds it first" >&2
    exit 1
  fi
done

export HEADROOM__DATA__DIR="${HEADROOM__DATA__DIR:-$PWD/data}"
if [ -z "${HEADROOM__MODELS__DIR:-}" ]; then
  # A folder `models` in this checkout is used in place of the sample model.
  if [ -d models ]; then
    HEADROOM__MODELS__DIR=$PWD/models
  else
    HEADROOM__MODELS__DIR=$HEADROOM_CACHE/models
  fi
  export HEADROOM__MODELS__DIR
fi

http=http://${HEADROOM__SERVER__LISTEN:-127.0.0.1:8080}
admin=http://${HEADROOM__SERVER__ADMIN_LISTEN:-127.0.0.1:9090}
cat <<TEXT
headroom: starting; Ctrl-C stops it
  server    $http   (models from $HEADROOM__MODELS__DIR)
  actors    $http/api/actors
  health    $admin/health/ready
  metrics   $admin/metrics
Example request (is this speech?); the first one loads the model:
  curl -s $http/v2/models/silero-vad/infer -d @$(printf %q "$PWD/docs/examples/silero-vad.json")
TEXT

exec "$programs/headroom" serve --config config/default.toml --profile development
