# shellcheck shell=bash
# What `make bench` compares Headroom with: connection pools and HTTP servers in JavaScript from npm, whose versions are
# in loadtest/peers/node/package.json, and wrk, which sends the requests.

need_bench_peers() {
  local folder=$HEADROOM_CACHE/bench-peers made_of
  have wrk || apt_install wrk || true # the bench of servers fails without it, and says so
  if ! have node || ! have npm; then
    say "node or npm missing: the bench skips the peers in JavaScript (apt-get install nodejs npm)"
    return
  fi
  made_of="$(sha256sum <loadtest/peers/node/package.json) $(node --version)"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 80 "the peers in JavaScript"
  say "fetching node-postgres, ioredis, Fastify, Express, multer and @tus/server from npm (20 MiB, for the bench)"
  npm_packages "$WORK/bench-peers" loadtest/peers/node/package.json "the peers in JavaScript"
  replace_folder "$WORK/bench-peers" "$folder" "$made_of"
}
