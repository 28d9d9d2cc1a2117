# shellcheck shell=bash
# What the tests of the completions and of the manual need: the shells that read the completions, and groff, which
# formats the manual. Used by the tests only.

need_shell_checks() {
  local -a missing=()
  have zsh || missing+=(zsh)
  have fish || missing+=(fish)
  have groff || missing+=(groff-base)
  [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}" || return 0
}
