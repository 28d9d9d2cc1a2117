# shellcheck shell=bash
# anvil (MIT or Apache licence) from npm: a node of an Ethereum-like chain, which the tests put behind the gateway. Its
# version is in anvil.json. npm runs no script of it, so the program of this machine is taken from its own package.

ANVIL_SHA256_X86_64=10c1c727d6c1de973aeb160e59875b9a9a23464d6e74149ee8abb30b3500311b
ANVIL_SHA256_AARCH64=bebaff5c1b6ff6f55b6f2f5f415bb5543f19b948197b5e909195e81ef1727be1

need_anvil() {
  local folder=$HEADROOM_CACHE/anvil made_of package sha256
  case $(uname -m) in
    x86_64) package=anvil-linux-amd64 sha256=$ANVIL_SHA256_X86_64 ;;
    aarch64) package=anvil-linux-arm64 sha256=$ANVIL_SHA256_AARCH64 ;;
    *)
      say "no anvil for $(uname -m): the tests of chains are skipped"
      return
      ;;
  esac
  { have node && have npm; } || apt_install nodejs npm || exit 1
  made_of="$(sha256sum <"$SETUP/anvil.json") $sha256"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 250 anvil
  say "fetching anvil from npm (20 MiB, for the tests)"
  npm_packages "$WORK/anvil" "$SETUP/anvil.json" anvil
  matches "$WORK/anvil/node_modules/@foundry-rs/$package/bin/anvil" "$sha256" ||
    die "anvil: the checksum of the download differs from the expected one; nothing was kept"
  mv "$WORK/anvil/node_modules/@foundry-rs/$package/bin/anvil" "$WORK/anvil/anvil"
  rm -r "$WORK/anvil/node_modules"
  replace_folder "$WORK/anvil" "$folder" "$made_of"
}
