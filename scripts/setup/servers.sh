# shellcheck shell=bash
# PostgreSQL and Redis: Headroom starts their binaries as private servers when no URL is
# configured. The services of the packages are not started, and their default cluster is removed. Headroom also runs
# without them; requests that need them get an answer that says how to install them. PgBouncer is for tests only.

NEED_SERVER="Headroom runs, and requests that need it get 503"

need_postgres() {
  local dir had_cluster=false
  for dir in /usr/lib/postgresql/*/bin /usr/local/bin /usr/local/pgsql/bin /usr/pgsql-*/bin /opt/homebrew/bin; do
    if [ -x "$dir/postgres" ] && [ -x "$dir/initdb" ]; then return; fi
  done
  if have postgres && have initdb; then return; fi
  if [ -n "$(ls /etc/postgresql 2>/dev/null)" ]; then had_cluster=true; fi
  install_idle postgresql "$NEED_SERVER" || return 0
  [ "$had_cluster" = true ] || drop_fresh_clusters
}

need_redis() {
  have redis-server || install_idle redis-server "$NEED_SERVER" || return 0
}

need_pgbouncer() {
  have pgbouncer || [ -x /usr/sbin/pgbouncer ] || install_idle pgbouncer "the tests of it are skipped" || return 0
}

# Removes the default cluster that the package creates. It was never started.
drop_fresh_clusters() {
  local dir
  for dir in /etc/postgresql/*/main; do
    [ -d "$dir" ] || continue
    as_root pg_dropcluster "$(basename "$(dirname "$dir")")" main ||
      say "the unused cluster in $dir was not removed: run pg_dropcluster"
  done
}

# install_idle PACKAGE WITHOUT: installs a package without starting its services, by Debian's policy file for that. The
# previous policy file is restored, also when this script is killed. Reports why it cannot install, and what happens
# WITHOUT the package, and fails.
install_idle() {
  local status=0
  if ! have apt-get; then
    say "$1 missing: install it with this system's packages (macOS: 'brew install ${1%-server}'); without it $2"
    return 1
  fi
  if ! can_install; then
    say "$1 missing, and installing needs root: run 'sudo apt-get install $1'; without it $2"
    return 1
  fi
  watch_installation || return 1
  { forbid_services && apt_install "$1"; } || status=$?
  end_installation
  return "$status"
}

# Starts a process that restores the policy file when it reads a line, or when the last process of the installation has
# ended: each of them holds descriptor 8. It has a session of its own, so that a kill of this script does not reach it.
watch_installation() {
  local code
  code="$(declare -f as_root restore_policy)
    POLICY=$(printf %q "$POLICY") POLICY_KEPT=$(printf %q "$POLICY_KEPT")
    trap '' INT TERM HUP
    echo && timeout 3600 head -n 1 >/dev/null
    restore_policy"
  coproc INSTALLATION { exec setsid bash -c "$code" 2>/dev/null 9>&-; }
  # shellcheck disable=SC2153 # coproc sets it
  WATCHER=$INSTALLATION_PID
  # Opened again: bash closes its own descriptors of a coprocess for the commands that it starts.
  exec 7<"/dev/fd/${INSTALLATION[0]}" 8>"/dev/fd/${INSTALLATION[1]}"
  eval "exec ${INSTALLATION[0]}<&- ${INSTALLATION[1]}>&-"
  # After this line the process is in its own session and ignores signals.
  read -r -t 20 _ <&7
}

end_installation() {
  echo >&8 2>/dev/null || true
  exec 7<&- 8>&-
  wait "$WATCHER" || true
}

POLICY=/usr/sbin/policy-rc.d
POLICY_KEPT=$POLICY.before-headroom

forbid_services() {
  local status=0
  if [ -x "$POLICY" ]; then
    "$POLICY" headroom start >/dev/null 2>&1 || status=$?
    # The existing policy forbids services already, as in containers.
    if [ "$status" = 101 ] && ! grep -q 'put here by Headroom' "$POLICY"; then return; fi
  fi
  if [ -e "$POLICY" ] && [ ! -e "$POLICY_KEPT" ]; then as_root mv "$POLICY" "$POLICY_KEPT" || return; fi
  printf '#!/bin/sh\n# put here by Headroom for the time of an installation\nexit 101\n' |
    as_root tee "$POLICY" >/dev/null && as_root chmod 755 "$POLICY"
}

restore_policy() {
  if ! grep -qs 'put here by Headroom' "$POLICY"; then return; fi
  as_root rm -f "$POLICY"
  if [ -e "$POLICY_KEPT" ]; then as_root mv "$POLICY_KEPT" "$POLICY"; fi
}
