# shellcheck shell=bash
# Connection pools in JavaScript from npm, which `make bench` compares with Headroom's. Their versions are in
# loadtest/peers/node/package.json.

need_bench_peers() {
  local folder=$HEADROOM_CACHE/bench-peers made_of
  if ! have node || ! have npm; then
    say "node or npm missing: the bench skips node-postgres and ioredis (apt-get install nodejs npm)"
    return
  fi
  made_of="$(sha256sum <loadtest/peers/node/package.json) $(node --version)"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 50 "node-postgres and ioredis"
  say "fetching node-postgres and ioredis from npm (5 MiB, for the bench)"
  mkdir -p "$WORK/bench-peers"
  cp loadtest/peers/node/package.json "$WORK/bench-peers/"
  bounded 600 npm install --prefix "$WORK/bench-peers" --cache "$WORK/npm" --no-package-lock --no-audit --no-fund \
    --ignore-scripts --silent >"$WORK/npm.log" 2>&1 ||
    die "node-postgres and ioredis cannot be installed: $(tail -n 1 "$WORK/npm.log" | cut -c1-300)"
  replace_folder "$WORK/bench-peers" "$folder" "$made_of"
}
