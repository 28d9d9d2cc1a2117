# shellcheck shell=bash
# Schemathesis (MIT licence) and its dependencies from PyPI, pinned in schemathesis.txt, in a virtual environment of
# their own. `make fuzz-api` runs it against the server.

need_schemathesis() {
  local folder=$HEADROOM_CACHE/schemathesis made_of
  need_python
  made_of="$(sha256sum <"$SETUP/schemathesis.txt") $(python3 --version)"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 200 "Schemathesis"
  say "fetching Schemathesis from PyPI (30 MiB, for make fuzz-api)"
  mkdir -p "$WORK/tmp"
  bounded 120 python3 -m venv --without-pip "$WORK/schemathesis" 2>"$WORK/pip.log" ||
    die "no virtual environment can be made: $(tail -n 1 "$WORK/pip.log" | cut -c1-300)"
  TMPDIR=$WORK/tmp PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    bounded 900 python3 -m pip --python "$WORK/schemathesis" install -q --no-input --timeout 30 --no-deps \
    --require-hashes --only-binary=:all: -r "$SETUP/schemathesis.txt" 2>"$WORK/pip.log" ||
    die "Schemathesis cannot be installed for $(python3 --version): $(grep -E '^ERROR' "$WORK/pip.log" | tail -n 1 | cut -c1-300)"
  replace_folder "$WORK/schemathesis" "$folder" "$made_of"
}
