# shellcheck shell=bash
# What `make bench` compares Headroom with: connection pools, HTTP servers and a client of chains in JavaScript from npm, whose
# versions are in loadtest/peers/node/package.json; nginx, whose service is not started; and wrk, which sends requests.

need_bench_peers() {
  local folder=$HEADROOM_CACHE/bench-peers made_of
  have wrk || apt_install wrk || true # the bench of servers fails without it, and says so
  have nginx || [ -x /usr/sbin/nginx ] || install_idle nginx "the bench of chains leaves it out" || true
  if ! have node || ! have npm; then
    say "node or npm missing: the bench skips the peers in JavaScript (apt-get install nodejs npm)"
    return
  fi
  made_of="$(sha256sum <loadtest/peers/node/package.json) $(node --version)"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 200 "the peers in JavaScript"
  say "fetching node-postgres, ioredis, Fastify, Express, multer, @tus/server and ethers from npm (25 MiB, for the bench)"
  npm_packages "$WORK/bench-peers" loadtest/peers/node/package.json "the peers in JavaScript"
  replace_folder "$WORK/bench-peers" "$folder" "$made_of"
}
