# shellcheck shell=bash
# Clients of Ethereum-like chains that the tests point at the gateway: ethers, viem (both MIT licence) and web3.js (LGPL)
# from npm, whose versions are in chain-clients.json; web3.py (MIT licence) from PyPI, pinned in chain_clients.txt. Used by
# the tests only.

need_chain_clients() {
  python_packages chain-clients-python chain_clients.txt "web3.py from PyPI (20 MiB, for the tests)"
  npm_folder chain-clients 400 "ethers, viem and web3.js" "40 MiB"
}
