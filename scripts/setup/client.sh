# shellcheck shell=bash
# Independent clients from PyPI, which the tests run against the server, with their dependencies: clients of the Open Inference
# Protocol, Triton's (BSD licence) and KServe's (Apache licence 2.0), pinned in client.txt; and a generator of clients from the
# OpenAPI document, openapi-python-client (MIT licence), pinned in openapi_client.txt. Used by the tests only.

need_protocol_client() {
  python_packages protocol-client client.txt "clients of the Open Inference Protocol from PyPI (70 MiB, for the tests)"
  # Without a JDK the test of Java's HTTP client says that it is skipped.
  { have java && have javac; } || apt_install default-jdk-headless || true
}

need_openapi_client() {
  need_python
  if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    say "no generator of OpenAPI clients: it needs Python 3.11, and a test of the OpenAPI document is skipped"
    return
  fi
  python_packages openapi-client openapi_client.txt "a generator of OpenAPI clients from PyPI (5 MiB, for the tests)"
}

# npm_packages FOLDER LIST WHAT: installs the npm packages of LIST, a package.json, in FOLDER, without their scripts.
npm_packages() {
  mkdir -p "$1"
  cp "$2" "$1/package.json"
  bounded 600 npm install --prefix "$1" --cache "$WORK/npm" --no-package-lock --no-audit --no-fund --ignore-scripts \
    --silent >"$WORK/npm.log" 2>&1 ||
    die "$3 cannot be installed: $(tail -n 1 "$WORK/npm.log" | cut -c1-300)"
}

# npm_folder NAME MIB WHAT SIZE: installs the npm packages of NAME.json in the folder NAME of the cache, with node. They need
# so many MiB; SIZE is that of the download.
npm_folder() {
  local folder=$HEADROOM_CACHE/$1 list=$SETUP/$1.json made_of
  { have node && have npm; } || apt_install nodejs npm || exit 1
  made_of="$(sha256sum <"$list")"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space "$2" "$3"
  say "fetching $3 from npm ($4, for the tests)"
  npm_packages "$WORK/$1" "$list" "$3"
  replace_folder "$WORK/$1" "$folder" "$made_of"
}

# python_packages FOLDER REQUIREMENTS WHAT: installs packages into a folder of the cache, for PYTHONPATH.
python_packages() {
  local folder=$HEADROOM_CACHE/$1 requirements=$SETUP/$2 made_of
  need_python
  made_of="$(sha256sum <"$requirements") $(python3 --version)"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 400 "$1"
  say "fetching $3"
  mkdir -p "$WORK/tmp"
  TMPDIR=$WORK/tmp PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    bounded 900 python3 -m pip install -q --no-input --timeout 30 --no-deps --require-hashes --only-binary=:all: \
    --target "$WORK/$1" -r "$requirements" 2>"$WORK/pip.log" ||
    die "$1 cannot be installed for $(python3 --version): $(grep -E '^ERROR' "$WORK/pip.log" | tail -n 1 | cut -c1-300)"
  replace_folder "$WORK/$1" "$folder" "$made_of"
}
