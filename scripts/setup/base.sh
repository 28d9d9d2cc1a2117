# shellcheck shell=bash
# What every step of the setup stands on: short messages, one line on failure, packages from apt,
# downloads from PyPI, and a work folder in the cache that only one setup holds at a time.

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through a sudo that asks no password.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_install() {
  have apt-get && { [ "$(id -u)" = 0 ] || { have sudo && sudo -n true 2>/dev/null; }; }
}

# bounded SECONDS COMMAND...: runs what may take longer than a moment. It gets no input, ends within that time, or with
# this script, and does not hold the lock of the work folder (9) when this script is killed.
BUSY=
bounded() {
  local status=0
  # In the background, since a trap waits for the end of what is not.
  timeout -k 10 "$@" </dev/null 9>&- &
  BUSY=$!
  wait "$BUSY" || status=$?
  BUSY=
  [ "$status" != 124 ] || say "no end within $1 s: ${*:2:4}"
  return "$status"
}

# bounded_root SECONDS COMMAND...: the same as root. What root runs only root can end, so the bound is within sudo.
bounded_root() {
  if [ "$(id -u)" = 0 ]; then bounded "$@"; else bounded $(($1 + 30)) sudo -n timeout -k 10 "$@"; fi
}

# apt OPERATION...: apt-get, which asks nothing and keeps the settings that are there.
apt() {
  bounded_root 900 env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a apt-get -y -o DPkg::Lock::Timeout=120 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold \
    -o Acquire::Retries=2 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 "$@"
}

# apt_install PACKAGE...: installs Debian packages, or says why not and fails.
apt_install() {
  local log status=0
  if ! can_install; then
    say "$* missing, and it takes root to install: run 'sudo apt-get install $*'"
    return 1
  fi
  say "installing $* with apt"
  log=$(mktemp)
  # The package lists of a fresh machine may be absent or old: refresh them only if the first try fails.
  apt install --no-install-recommends "$@" >"$log" 2>&1 ||
    { apt update >"$log" 2>&1 && apt install --no-install-recommends "$@" >"$log" 2>&1; } || status=$?
  [ "$status" = 0 ] || say "apt could not install $*: $(grep -E '^E:' "$log" | head -n 1)"
  rm -f "$log"
  return "$status"
}

WORK=
leave() {
  [ -z "$BUSY" ] || kill "$BUSY" 2>/dev/null || true
  [ -z "$WORK" ] || rm -rf "$WORK"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Longest time, in seconds, to wait for another setup.
LOCK_WAIT=1800

# Takes the cache's lock (held until this process ends) and makes $WORK, a folder on the same file system
# as the results, so that a rename puts each in its place at once and never by halves.
open_work() {
  [ -z "$WORK" ] || return 0
  mkdir -p "$HEADROOM_CACHE" 2>/dev/null || true
  [ -w "$HEADROOM_CACHE" ] ||
    die "cannot write to $HEADROOM_CACHE: set HEADROOM_CACHE to a folder of yours"
  have flock || die "flock missing: install it with 'apt-get install util-linux'"
  exec 9>"$HEADROOM_CACHE/.lock"
  if ! flock -n 9; then
    say "another setup is at work in $HEADROOM_CACHE, waiting for it"
    flock -w "$LOCK_WAIT" 9 || die "another setup has been at work in $HEADROOM_CACHE for $LOCK_WAIT s"
  fi
  # Whoever left a work folder behind was killed: it would hold the lock otherwise.
  rm -rf "$HEADROOM_CACHE"/.work-*
  WORK=$(mktemp -d "$HEADROOM_CACHE/.work-XXXXXX")
}

# need_space MIB WHAT: fails early rather than half way through a download.
need_space() {
  local free
  free=$(df -Pk "$HEADROOM_CACHE" | awk 'NR == 2 { print int($4 / 1024) }')
  [ "$free" -ge "$1" ] ||
    die "$2 needs $1 MiB in $HEADROOM_CACHE for a moment, $free MiB are free: set HEADROOM_CACHE to another disk"
}

# from_pypi DEST REQUIREMENT SHA256 [PIP OPTION...]: downloads one file into DEST. pip compares the checksum
# before it opens the file.
from_pypi() {
  local dest=$1 requirement=$2 sha256=$3 try
  local -a show=(-q)
  # pip and what it starts keep to the work folder: no second copy of half a gigabyte stays behind elsewhere.
  local -x TMPDIR=$WORK/tmp XDG_CACHE_HOME=$WORK/tmp PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
  shift 3
  need_python
  if [ -t 1 ]; then show=(); fi
  # Newer pips go on where a broken download stopped; older ones begin again.
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
      die "$requirement: what arrived is not what was published (checksum differs), nothing was kept"
    fi
    [ "$try" = 3 ] || {
      say "$requirement: download failed, trying again"
      sleep $((try * 3))
    }
  done
  if grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|timed out' "$WORK/pip.log"; then
    die "$requirement: pip does not reach its package index (network, proxy or PIP_INDEX_URL)"
  fi
  die "$requirement: download failed three times: $(grep -E '^ERROR' "$WORK/pip.log" | tail -n 1 | cut -c1-300)"
}

# matches FILE SHA256: true if the file is there and is what it should be.
matches() {
  [ -f "$1" ] && echo "$2  $1" | sha256sum --check --status
}

# place FILE DEST: puts a finished file in its place in one step, readable by all.
place() {
  mkdir -p "$(dirname "$2")"
  chmod 644 "$1"
  mv -f "$1" "$2"
}
