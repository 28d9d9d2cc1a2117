# shellcheck shell=bash
# ClamAV: clamd scans uploads. The package's services are not started, so neither clamd nor freshclam runs, and no
# signatures are fetched: tests start a clamd of their own with a signature of their own.

need_clamav() {
  have clamd || [ -x /usr/sbin/clamd ] ||
    install_idle clamav-daemon "Headroom runs without scans of uploads, and their tests are skipped" || return 0
}
