# shellcheck shell=bash
# A client of the Open Inference Protocol that no one here made: the tests run it against the server, since our own
# idea of the protocol proves nothing. From PyPI, for the tests alone: Triton's HTTP client (BSD licence) and what it
# imports, pinned in client.txt.

need_protocol_client() {
  local folder=$HEADROOM_CACHE/protocol-client made_of
  need_python
  made_of="$(sha256sum <"$SETUP/client.txt") $(python3 --version)"
  [ "$(cat "$folder/made-of" 2>/dev/null)" = "$made_of" ] && return
  open_work
  [ "$(cat "$folder/made-of" 2>/dev/null)" = "$made_of" ] && return
  need_space 200 "the protocol's client"
  say "fetching a client of the Open Inference Protocol from PyPI (25 MiB, for the tests)"
  mkdir -p "$WORK/tmp"
  TMPDIR=$WORK/tmp PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    bounded 900 python3 -m pip install -q --no-input --timeout 30 --no-deps --require-hashes --only-binary=:all: \
    --target "$WORK/protocol-client" -r "$SETUP/client.txt" 2>"$WORK/pip.log" ||
    die "the protocol's client does not install for $(python3 --version): $(grep -E '^ERROR' "$WORK/pip.log" | tail -n 1 | cut -c1-300)"
  echo "$made_of" >"$WORK/protocol-client/made-of"
  if [ -e "$folder" ]; then mv "$folder" "$WORK/replaced-client"; fi
  mv -T "$WORK/protocol-client" "$folder"
}
