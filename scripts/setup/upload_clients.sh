# shellcheck shell=bash
# Clients that the tests upload files with: tus-js-client and Uppy from npm (MIT licence), whose versions are in
# upload-clients.json; tuspy (MIT licence) and Requests (Apache licence) from PyPI, pinned in upload_clients.txt. Used by the
# tests only.

need_upload_clients() {
  have curl || apt_install curl || exit 1
  python_packages upload-clients-python upload_clients.txt "tuspy and Requests from PyPI (4 MiB, for the tests)"
  npm_folder upload-clients 100 "tus-js-client and Uppy" "15 MiB"
}
