# shellcheck shell=bash
# Prometheus and promtool: a test lets them scrape a real server and check the metrics and the alert rules. The
# package's services are not started.

need_prometheus() {
  { have prometheus && have promtool; } || install_idle prometheus "the tests with Prometheus are skipped" || return 0
}
