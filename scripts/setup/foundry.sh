# shellcheck shell=bash
# Programs of Foundry (MIT or Apache licence) from npm: anvil, a node of an Ethereum-like chain, which the tests put behind
# the gateway, and cast, a client that the tests point at it. Their versions are in anvil.json and cast.json. npm runs no
# script of them, so the program of this machine is taken from its own package.

ANVIL_SHA256_X86_64=10c1c727d6c1de973aeb160e59875b9a9a23464d6e74149ee8abb30b3500311b
ANVIL_SHA256_AARCH64=bebaff5c1b6ff6f55b6f2f5f415bb5543f19b948197b5e909195e81ef1727be1
CAST_SHA256_X86_64=ccd95a4607ca3ebfcb88bb90e7235cdb7f0564f5f1afa17478d5fccabbb222cb
CAST_SHA256_AARCH64=a0abbff83cb5ae40015a6e9480677207efb80fdfe60f8af76ebc38cf45beb8e9

need_anvil() { foundry_program anvil "$ANVIL_SHA256_X86_64" "$ANVIL_SHA256_AARCH64"; }

need_cast() { foundry_program cast "$CAST_SHA256_X86_64" "$CAST_SHA256_AARCH64"; }

# foundry_program NAME SHA256_X86_64 SHA256_AARCH64: puts the program into the folder NAME of the cache.
foundry_program() {
  local name=$1 folder=$HEADROOM_CACHE/$1 made_of package sha256
  case $(uname -m) in
    x86_64) package=$name-linux-amd64 sha256=$2 ;;
    aarch64) package=$name-linux-arm64 sha256=$3 ;;
    *)
      say "no $name for $(uname -m): tests of chains are skipped"
      return
      ;;
  esac
  { have node && have npm; } || apt_install nodejs npm || exit 1
  made_of="$(sha256sum <"$SETUP/$name.json") $sha256"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 250 "$name"
  say "fetching $name from npm (20 MiB, for the tests)"
  npm_packages "$WORK/$name" "$SETUP/$name.json" "$name"
  matches "$WORK/$name/node_modules/@foundry-rs/$package/bin/$name" "$sha256" ||
    die "$name: the checksum of the download differs from the expected one; nothing was kept"
  mv "$WORK/$name/node_modules/@foundry-rs/$package/bin/$name" "$WORK/$name/$name"
  rm -r "$WORK/$name/node_modules"
  replace_folder "$WORK/$name" "$folder" "$made_of"
}
