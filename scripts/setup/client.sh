# shellcheck shell=bash
# An independent client of the Open Inference Protocol, which the tests run against the server:
# Triton's HTTP client (BSD licence) and its dependencies from PyPI, pinned in client.txt. Used by the tests only.

need_protocol_client() {
  local folder=$HEADROOM_CACHE/protocol-client made_of
  need_python
  made_of="$(sha256sum <"$SETUP/client.txt") $(python3 --version)"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 200 "the protocol client"
  say "fetching a client of the Open Inference Protocol from PyPI (25 MiB, for the tests)"
  mkdir -p "$WORK/tmp"
  TMPDIR=$WORK/tmp PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    bounded 900 python3 -m pip install -q --no-input --timeout 30 --no-deps --require-hashes --only-binary=:all: \
    --target "$WORK/protocol-client" -r "$SETUP/client.txt" 2>"$WORK/pip.log" ||
    die "the protocol client cannot be installed for $(python3 --version): $(grep -E '^ERROR' "$WORK/pip.log" | tail -n 1 | cut -c1-300)"
  replace_folder "$WORK/protocol-client" "$folder" "$made_of"
}
