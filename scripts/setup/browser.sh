# shellcheck shell=bash
# What the tests of the page need: Debian's Chromium, and axe-core from npm (MPL licence), which checks pages for
# people who cannot see or use a mouse. Its version is in page-checks.json. Used by the tests only.

need_browser() {
  have chromium || apt_install chromium || return 0
}

need_page_checks() {
  npm_folder page-checks 50 axe-core "3 MiB"
}
