# shellcheck shell=bash
# Clients of Ethereum-like chains that the tests point at the gateway: ethers, viem (both MIT licence) and web3.js (LGPL)
# from npm, whose versions are in chain-clients.json; web3.py (MIT licence) from PyPI, pinned in chain_clients.txt. Used by
# the tests only.

need_chain_clients() {
  local folder=$HEADROOM_CACHE/chain-clients made_of
  python_packages chain-clients-python chain_clients.txt "web3.py from PyPI (20 MiB, for the tests)"
  { have node && have npm; } || apt_install nodejs npm || exit 1
  made_of="$(sha256sum <"$SETUP/chain-clients.json")"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 400 "ethers, viem and web3.js"
  say "fetching ethers, viem and web3.js from npm (40 MiB, for the tests)"
  npm_packages "$WORK/chain-clients" "$SETUP/chain-clients.json" "ethers, viem and web3.js"
  replace_folder "$WORK/chain-clients" "$folder" "$made_of"
}
