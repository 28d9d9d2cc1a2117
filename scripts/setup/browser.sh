# shellcheck shell=bash
# What the tests of the page need: Debian's Chromium, and axe-core from npm (MPL licence), which checks pages for
# people who cannot see or use a mouse. Its version is in page-checks.json. Used by the tests only.

need_browser() {
  have chromium || apt_install chromium || return 0
}

need_page_checks() {
  local folder=$HEADROOM_CACHE/page-checks made_of
  { have node && have npm; } || apt_install nodejs npm || exit 1
  made_of="$(sha256sum <"$SETUP/page-checks.json")"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 50 axe-core
  say "fetching axe-core from npm (3 MiB, for the tests)"
  npm_packages "$WORK/page-checks" "$SETUP/page-checks.json" "axe-core"
  replace_folder "$WORK/page-checks" "$folder" "$made_of"
}
