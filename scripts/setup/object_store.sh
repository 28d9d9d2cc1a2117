# shellcheck shell=bash
# OpenStack Swift with its S3 interface (s3api): a store for the tests of uploads in a bucket. The services of the packages
# are not started: tests start servers of their own.

need_object_store() {
  local package without="the tests of uploads in a bucket are skipped"
  for package in account container object proxy; do
    have "swift-$package-server" || install_idle "swift-$package" "$without" || return 0
  done
}
