#!/usr/bin/env bash
# Measures, shows the report, and keeps it in docs/figures: `scripts/figures.sh SCENARIO [OPTIONS]` runs a scenario of the load
# tests, `scripts/figures.sh criterion` the benches. The report replaces the earlier one only when all was measured.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
. scripts/env.sh

name=${1:?usage: scripts/figures.sh SCENARIO [OPTIONS]}
report=docs/figures/$name.txt
trap 'rm -f "$report.part"' EXIT

bounded_cargo() {
  timeout --foreground -k 60 120m cargo "$@" </dev/null
}

# The names and the times of the benches; not the progress, and not the comparison with an earlier run. Criterion prints a
# long name on a line of its own.
times() {
  awk '/^Benchmarking|^ +Running/ { next }
    /^[^ ]/ { name = $0 }
    /(time|thrpt): +\[/ { if (/^ / && name != "") print name; print; name = "" }'
}

measure() {
  if [ "$name" = criterion ]; then
    echo "commit ${HEADROOM_COMMIT:-not recorded}, $(date -u +%F)"
    bounded_cargo bench --workspace --benches | times
  else
    bounded_cargo run --release -p headroom-loadtest ${FEATURES:+--features "$FEATURES"} -- "$@"
  fi
}

measure "$@" | tee "$report.part"
mv "$report.part" "$report"
