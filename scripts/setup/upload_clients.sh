# shellcheck shell=bash
# Clients that the tests upload files with: tus-js-client from npm (MIT licence). Its version is in
# upload-clients.json. Used by the tests only.

need_upload_clients() {
  local folder=$HEADROOM_CACHE/upload-clients made_of
  { have node && have npm; } || apt_install nodejs npm || exit 1
  made_of="$(sha256sum <"$SETUP/upload-clients.json")"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 50 tus-js-client
  say "fetching tus-js-client from npm (4 MiB, for the tests)"
  mkdir -p "$WORK/upload-clients"
  cp "$SETUP/upload-clients.json" "$WORK/upload-clients/package.json"
  bounded 600 npm install --prefix "$WORK/upload-clients" --cache "$WORK/npm" --no-package-lock --no-audit --no-fund \
    --ignore-scripts --silent >"$WORK/npm.log" 2>&1 ||
    die "tus-js-client cannot be installed: $(tail -n 1 "$WORK/npm.log" | cut -c1-300)"
  replace_folder "$WORK/upload-clients" "$folder" "$made_of"
}
