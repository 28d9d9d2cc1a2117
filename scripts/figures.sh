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

measure() {
  if [ "$name" = criterion ]; then
    echo "commit ${HEADROOM_COMMIT:-unknown}, $(date -u +%F)"
    # Not its progress, and not its comparison with an earlier run.
    cargo bench --workspace --benches | grep -E '(time|thrpt): +\['
  else
    cargo run --release -p headroom-loadtest ${FEATURES:+--features "$FEATURES"} -- "$@"
  fi
}

measure "$@" </dev/null | tee "$report.part"
mv "$report.part" "$report"
