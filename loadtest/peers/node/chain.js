// ethers' FallbackProvider behind Express. The provider has methods of its own in place of those of JSON-RPC, and keeps some
// fields of a block.

import { packages, ready } from './item.js';

const express = packages('express');
const { FallbackProvider, JsonRpcProvider, Network, toQuantity } = packages('ethers');

const network = Network.from(Number(process.env.HEADROOM_LOADTEST_CHAIN_ID));
// By default, a call waits 10 ms for others that are sent with it.
const options = { staticNetwork: network, batchMaxCount: 1 };
const node = new JsonRpcProvider(process.env.HEADROOM_LOADTEST_UPSTREAM, network, options);
const provider = new FallbackProvider([node], network, { quorum: 1 });

const methods = {
  eth_getBalance: async ([address, tag]) => toQuantity(await provider.getBalance(address, tag)),
  eth_getBlockByNumber: async ([tag, full]) => {
    const block = await provider.getBlock(tag, full);
    return {
      number: toQuantity(block.number),
      hash: block.hash,
      parentHash: block.parentHash,
      timestamp: toQuantity(block.timestamp),
      nonce: block.nonce,
      difficulty: toQuantity(block.difficulty),
      gasLimit: toQuantity(block.gasLimit),
      gasUsed: toQuantity(block.gasUsed),
      baseFeePerGas: toQuantity(block.baseFeePerGas),
      miner: block.miner.toLowerCase(),
      stateRoot: block.stateRoot,
      receiptsRoot: block.receiptsRoot,
      extraData: block.extraData,
      transactions: block.transactions,
    };
  },
};

const app = express();
app.post('/', express.json(), async (request, response) => {
  const { id, method, params } = request.body;
  try {
    response.json({ jsonrpc: '2.0', id, result: await methods[method](params) });
  } catch (error) {
    response.json({ jsonrpc: '2.0', id, error: { code: -32603, message: error.message } });
  }
});
const server = app.listen(0, '127.0.0.1', () => ready(server.address()));
