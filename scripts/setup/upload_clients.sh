# shellcheck shell=bash
# Clients that the tests upload files with: tus-js-client and Uppy from npm (MIT licence), whose versions are in
# upload-clients.json; tuspy (MIT licence) and Requests (Apache licence) from PyPI, pinned in upload_clients.txt. Used by the
# tests only.

need_upload_clients() {
  local folder=$HEADROOM_CACHE/upload-clients made_of
  have curl || apt_install curl || exit 1
  python_packages upload-clients-python upload_clients.txt "tuspy and Requests from PyPI (4 MiB, for the tests)"
  { have node && have npm; } || apt_install nodejs npm || exit 1
  made_of="$(sha256sum <"$SETUP/upload-clients.json")"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 100 "tus-js-client and Uppy"
  say "fetching tus-js-client and Uppy from npm (15 MiB, for the tests)"
  npm_packages "$WORK/upload-clients" "$SETUP/upload-clients.json" "tus-js-client and Uppy"
  replace_folder "$WORK/upload-clients" "$folder" "$made_of"
}
