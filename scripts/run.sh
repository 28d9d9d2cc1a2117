#!/usr/bin/env bash
# Starts the release build with config/default.toml and the sample model; `make run` builds first.
# Whatever HEADROOM__SECTION__KEY you set wins over what is chosen here.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

export HEADROOM__DATA__DIR="${HEADROOM__DATA__DIR:-$PWD/data}"
if [ -z "${HEADROOM__MODELS__DIR:-}" ]; then
  # A models folder of your own beside this checkout comes before the sample model.
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
headroom: starting; Ctrl-C ends it
  server    $http   (models from $HEADROOM__MODELS__DIR)
  actors    $http/api/actors
  health    $admin/health/ready
  metrics   $admin/metrics
Is this speech? The first call loads the model:
  curl -s $http/v2/models/silero-vad/infer -d @$(printf %q "$PWD/docs/examples/silero-vad.json")
TEXT

exec "${CARGO_TARGET_DIR:-target}/release/headroom" serve --config config/default.toml
