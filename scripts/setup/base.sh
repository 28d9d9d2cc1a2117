# shellcheck shell=bash
# Functions that every step of the setup uses: messages, packages from apt, downloads from PyPI,
# and a work folder in the cache that only one setup uses at a time.

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through a sudo without a password.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_install() {
  have apt-get && { [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }
}

# bounded SECONDS COMMAND...: runs a command without input. Ends it after that time, or with this script. The command
# does not inherit the lock of the work folder (descriptor 9), so that the lock is free when this script is killed.
BUSY=
bounded() {
  local status=0
  # In the background: a trap would wait for the end of a command in the foreground.
  timeout -k 10 "$@" </dev/null 9>&- &
  BUSY=$!
  wait "$BUSY" || status=$?
  BUSY=
  [ "$status" != 124 ] || say "no end within $1 s: ${*:2:4}"
  return "$status"
}

# bounded_root SECONDS COMMAND...: the same as root. Only root can end root's processes, so `timeout` runs inside sudo.
bounded_root() {
  if [ "$(id -u)" = 0 ]; then bounded "$@"; else bounded $(($1 + 30)) sudo -n timeout -k 10 "$@"; fi
}

# apt OPERATION...: runs apt-get without questions. Existing configuration files are kept.
apt() {
  bounded_root 900 env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get -y -o DPkg::Lock::Timeout=120 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 "$@"
}

# apt_install PACKAGE...: installs Debian packages, or reports why it cannot and fails.
apt_install() {
  local log status=0
  if ! can_install; then
    say "$* missing, and installing needs root: run 'sudo apt-get install $*'"
    return 1
  fi
  say "installing $* with apt"
  log=$(mktemp)
  # The package lists of a fresh machine may be missing or old. They are updated only if the first attempt fails.
  apt install --no-install-recommends "$@" >"$log" 2>&1 ||
    { apt update >"$log" 2>&1 && apt install --no-install-recommends "$@" >"$log" 2>&1; } || status=$?
  [ "$status" = 0 ] || say "apt could not install $*: $(grep -E '^E:' "$log" | head -n 1)"
  rm -f "$log"
  return "$status"
}

WORK=
clean_up() {
  [ -z "$BUSY" ] || kill "$BUSY" 2>/dev/null || true
  [ -z "$WORK" ] || rm -rf "$WORK"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Longest time to wait for another setup, in seconds.
LOCK_WAIT=1800

# Takes the cache's lock until this process ends, and makes the folder $WORK. It is on the same file system as the
# results, so that a rename puts each of them in place in one step.
open_work() {
  [ -z "$WORK" ] || return 0
  mkdir -p "$HEADROOM_CACHE" 2>/dev/null || true
  [ -w "$HEADROOM_CACHE" ] ||
    die "cannot write to $HEADROOM_CACHE: set HEADROOM_CACHE to a writable folder"
  have flock || die "flock missing: install it with 'apt-get install util-linux'"
  exec 9>"$HEADROOM_CACHE/.lock"
  if ! flock -n 9; then
    say "waiting for another setup in $HEADROOM_CACHE"
    flock -w "$LOCK_WAIT" 9 || die "another setup in $HEADROOM_CACHE has not ended within $LOCK_WAIT s"
  fi
  # Other work folders belong to setups that were killed: a running one would hold the lock.
  rm -rf "$HEADROOM_CACHE"/.work-*
  WORK=$(mktemp -d "$HEADROOM_CACHE/.work-XXXXXX")
}

# need_space MIB WHAT: fails when there is too little disk space, before a download begins.
need_space() {
  local free
  free=$(df -Pk "$HEADROOM_CACHE" | awk 'NR == 2 { print int($4 / 1024) }')
  [ "$free" -ge "$1" ] ||
    die "$2 needs $1 MiB in $HEADROOM_CACHE temporarily, $free MiB are free: set HEADROOM_CACHE to a folder on another disk"
}

# from_pypi DEST REQUIREMENT SHA256 [PIP OPTION...]: downloads one file into DEST. pip checks its checksum before it
# opens the file.
from_pypi() {
  local dest=$1 requirement=$2 sha256=$3 try
  local -a show=(-q)
  # pip and its children write only to the work folder, so that no second copy stays in another cache.
  local -x TMPDIR=$WORK/tmp XDG_CACHE_HOME=$WORK/tmp PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
  shift 3
  need_python
  if [ -t 1 ]; then show=(); fi
  # Newer versions of pip resume a broken download; older ones start again.
  if bounded 60 python3 -m pip download --help 2>/dev/null | grep -q -- --resume-retries; then
    show+=(--resume-retries 10)
  fi
  mkdir -p "$dest" "$WORK/tmp"
  echo "$requirement --hash=sha256:$sha256" >"$WORK/requirement.txt"
  for try in 1 2 3; do
    if bounded 1200 python3 -m pip download "${show[@]}" --no-input --timeout 30 --no-deps --require-hashes "$@" -d "$dest" \
      -r "$WORK/requirement.txt" 2>"$WORK/pip.log"; then
      return 0
    fi
    if grep -q 'DO NOT MATCH THE HASHES' "$WORK/pip.log"; then
      die "$requirement: the checksum of the download differs from the published one; nothing was kept"
    fi
    [ "$try" = 3 ] || {
      say "$requirement: the download failed, trying again"
      sleep $((try * 3))
    }
  done
  if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|timed out' "$WORK/pip.log"; then
    die "$requirement: pip cannot reach its package index: check the network, the proxy and PIP_INDEX_URL"
  fi
  die "$requirement: the download failed three times: $(grep -E '^ERROR' "$WORK/pip.log" | tail -n 1 | cut -c1-300)"
}

# matches FILE SHA256: true if the file exists and has this checksum.
matches() {
  [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status
}

# is_current FOLDER INPUTS: true if replace_folder has made the folder from the same inputs.
is_current() {
  [ "$(cat "$1/made-of" 2>/dev/null)" = "$2" ]
}

# replace_folder NEW FOLDER INPUTS: puts a new folder in the place of FOLDER, and records what it was made from.
replace_folder() {
  echo "$3" >"$1/made-of"
  if [ -e "$2" ]; then mv "$2" "$WORK/replaced"; fi
  mv -T "$1" "$2"
}

# place FILE DEST: moves a complete file to its place in one step, readable by all.
place() {
  mkdir -p "$(dirname "$2")"
  chmod 644 "$1"
  mv -f "$1" "$2"
}
