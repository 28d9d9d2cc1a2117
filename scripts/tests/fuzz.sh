#!/usr/bin/env bash
# Gives each target of src/fuzz.rs the inputs that libFuzzer generates, on the stable compiler. Inputs that reach new
# branches are kept in the target folder; fuzz/corpus/ has those that a test handles again.
#
# Usage: scripts/tests/fuzz.sh SECONDS [TARGET...]
# MERGE=1 adds the 40 inputs that reach the most new branches to fuzz/corpus/, in place of the run.
set -euo pipefail

cd "$(dirname "$0")/../.."
seconds=$1
shift
mapfile -t targets < <(ls fuzz/corpus)
[ $# -eq 0 ] || targets=("$@")
folder=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

# What cargo-fuzz sets too, without a sanitizer: the project has no unsafe code here.
flags="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=4"
for flag in level=4 inline-8bit-counters pc-table trace-compares; do
  flags+=" -Cllvm-args=-sanitizer-coverage-$flag"
done
echo "fuzz: building the targets"
# With a target, the flags are not for build scripts.
# The versions of the dependencies are those of the product.
[ fuzz/Cargo.lock -nt Cargo.lock ] || cp Cargo.lock fuzz/
CARGO_TARGET_DIR=$folder RUSTFLAGS=$flags cargo build --manifest-path fuzz/Cargo.toml --target "$host"

for target in "${targets[@]}"; do
  mkdir -p "$folder/corpus/$target" "$folder/failures"
  run=("$folder/$host/debug/headroom-fuzz" -artifact_prefix="$folder/failures/$target-" -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_funcs=0)
  export FUZZ_TARGET=$target
  if [ -n "${MERGE:-}" ]; then
    merged=$(mktemp -d)
    cp -p "fuzz/corpus/$target"/* "$merged"
    known=$(find "$merged" -type f | wc -l)
    "${run[@]}" -set_cover_merge=1 -use_counters=0 "$merged" "$folder/corpus/$target"
    # libFuzzer writes the best first.
    find "$merged" -type f -printf '%T@ %p\n' | sort -n | cut -d' ' -f2 | sed -n "$((known + 1)),$((known + 40))p" |
      xargs -r cp -t "fuzz/corpus/$target"
    rm -r "$merged"
    continue
  fi
  echo "fuzz: $target for $seconds s"
  "${run[@]}" -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 "$folder/corpus/$target" "fuzz/corpus/$target" ||
    { echo "fuzz: $target failed; correct it, and add the input to fuzz/corpus/$target" >&2; exit 1; }
done
