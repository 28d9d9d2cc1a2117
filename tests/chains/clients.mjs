// What clients of Ethereum do, through the URL of a gateway or of a node.
//
// node clients.mjs PACKAGES CLIENT STEP HTTP_URL WS_URL
// CLIENT: ethers, viem, web3. STEP: `write` deploys a contract and sends transactions; `read` asks about all that is
// there. Prints a JSON object of what it has found.

import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";

const [packages, client, step, httpUrl, wsUrl] = process.argv.slice(2);
const require = createRequire(`${packages}/package.json`);

// The first account of the development nodes.
const KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
// A contract that counts its calls in the slot 0, and logs each with the first word of its data as the topic. Without data
// it reverts with 0xdeadbeef and 32 zeros.
const CODE = "0x6030600c60003960306000f3" +
  "3615601f5760005460010180600055600052600035602060" + "00a160206000f35b63deadbeef60e01b60005260246000fd";
const TOPIC = "0x" + "c1".repeat(32);
const DEADLINE_MS = 20_000;

const text = (value) => JSON.stringify(value, (_, it) => typeof it === "bigint" ? it.toString() : it);
const found = {};

async function until(condition, what) {
  for (const end = Date.now() + DEADLINE_MS; Date.now() < end; await pause(20)) {
    if (await condition()) return;
  }
  throw new Error(`no ${what} in ${DEADLINE_MS} ms`);
}

// The contract is the first one of the account, wherever the count began.
async function contractOf(logs) {
  return logs[0].address;
}

async function ethers() {
  const { JsonRpcProvider, WebSocketProvider, Wallet, Network } = require("ethers");
  const network = Network.from(31337);
  const http = new JsonRpcProvider(httpUrl, network, { staticNetwork: network, pollingInterval: 50, cacheTimeout: -1 });
  if (step === "write") {
    const ws = new WebSocketProvider(wsUrl, network, { staticNetwork: network });
    const heads = [];
    const logs = [];
    await ws.on("block", (number) => heads.push(number));
    await ws.on({ topics: [TOPIC] }, (log) => logs.push(log.data));
    // The subscriptions are there when this is answered on the same connection.
    await ws.getBlockNumber();
    await pause(200);
    const wallet = new Wallet(KEY, http);
    const deployed = await (await wallet.sendTransaction({ data: CODE })).wait();
    const to = deployed.contractAddress;
    const receipts = [];
    for (let count = 0; count < 3; count += 1) {
      receipts.push(await (await wallet.sendTransaction({ to, data: TOPIC })).wait());
    }
    found.statuses = receipts.map((it) => it.status);
    await until(() => logs.length >= 3 && heads.includes(receipts[2].blockNumber), "notifications");
    found.logs = logs.map((data) => Number(data));
    found.heads = heads.every((number, index) => index === 0 || number === heads[index - 1] + 1);
    // Through a filter of the node, and by polling.
    const polled = [];
    await http.on({ address: to }, (log) => polled.push(Number(log.data)));
    await pause(300);
    await (await wallet.sendTransaction({ to, data: TOPIC })).wait();
    await until(() => polled.length >= 1, "polled logs");
    found.polled = polled;
    await ws.destroy();
    http.destroy();
    return;
  }
  const batched = new JsonRpcProvider(httpUrl, network, { staticNetwork: network, batchMaxCount: 50 });
  const logs = await batched.getLogs({ fromBlock: 0, toBlock: "latest", topics: [TOPIC] });
  const to = await contractOf(logs);
  found.logs = logs;
  found.answers = await Promise.all([
    batched.getNetwork(), batched.getBlockNumber(), batched.getBalance(ACCOUNT), batched.getTransactionCount(ACCOUNT),
    batched.getCode(to), batched.getStorage(to, 0), batched.getBlock(0), batched.getBlock("latest", true),
    batched.getFeeData(), batched.getTransaction(logs[0].transactionHash),
    batched.getTransactionReceipt(logs[0].transactionHash), batched.call({ to, data: TOPIC }),
    batched.estimateGas({ to, data: TOPIC, from: ACCOUNT }), batched.getBlock("0x" + "ab".repeat(32)),
    batched.getTransactionReceipt("0x" + "ab".repeat(32)),
  ]);
  found.reverted = await batched.call({ to }).then(() => "no", (error) => [error.code, error.data]);
  batched.destroy();
  http.destroy();
}

async function viem() {
  const viem = require("viem");
  const { privateKeyToAccount } = require("viem/accounts");
  const { foundry } = require("viem/chains");
  const transport = viem.http(httpUrl, { batch: step === "read", retryCount: 0 });
  const http = viem.createPublicClient({ chain: foundry, transport, pollingInterval: 50, cacheTime: 0 });
  if (step === "write") {
    const ws = viem.createPublicClient({ chain: foundry, transport: viem.webSocket(wsUrl, { retryCount: 0 }) });
    const wallet = viem.createWalletClient({ account: privateKeyToAccount(KEY), chain: foundry, transport });
    const heads = [];
    const logs = [];
    const fail = (error) => { throw error; };
    ws.watchBlocks({ onBlock: (block) => heads.push(Number(block.number)), onError: fail });
    ws.watchEvent({ onLogs: (some) => logs.push(...some.map((it) => Number(it.data))), onError: fail });
    await ws.getBlockNumber();
    await pause(200);
    const send = async (transaction) =>
      http.waitForTransactionReceipt({ hash: await wallet.sendTransaction(transaction) });
    const to = (await send({ data: CODE })).contractAddress;
    const receipts = [];
    for (let count = 0; count < 3; count += 1) receipts.push(await send({ to, data: TOPIC }));
    found.statuses = receipts.map((it) => it.status);
    // It asks for each block by its number, and the answers may overtake each other.
    const areAll = () => [...heads].sort((one, other) => one - other)
      .every((number, index, all) => index === 0 || number === all[index - 1] + 1);
    const last = Number(receipts[2].blockNumber);
    await until(() => logs.length >= 3 && heads.includes(last) && areAll(), "notifications");
    found.logs = logs.slice(0, 3);
    found.heads = areAll();
    const polled = [];
    http.watchEvent({ address: to, onLogs: (some) => polled.push(...some.map((it) => Number(it.data))), onError: fail });
    await pause(300);
    await send({ to, data: TOPIC });
    await until(() => polled.length >= 1, "polled logs");
    found.polled = polled;
    return;
  }
  const logs = await http.getLogs({ fromBlock: 0n, toBlock: "latest" });
  const to = await contractOf(logs);
  found.logs = logs;
  const hash = logs[0].transactionHash;
  found.answers = await Promise.all([
    http.getChainId(), http.getBlockNumber(), http.getBalance({ address: ACCOUNT }),
    http.getTransactionCount({ address: ACCOUNT }), http.getCode({ address: to }),
    http.getStorageAt({ address: to, slot: "0x0" }), http.getBlock({ blockNumber: 0n }),
    http.getBlock({ includeTransactions: true }), http.getGasPrice(), http.estimateFeesPerGas(),
    http.getFeeHistory({ blockCount: 4, rewardPercentiles: [25, 75] }), http.getTransaction({ hash }),
    http.getTransactionReceipt({ hash }), http.call({ to, data: TOPIC }),
    http.estimateGas({ account: ACCOUNT, to, data: TOPIC }), http.getProof({ address: to, storageKeys: ["0x" + "00".repeat(32)] }),
  ]);
  found.reverted = await http.call({ to }).then(() => "no", (error) => error.walk((it) => it.data)?.data);
  found.missing = await http.getTransactionReceipt({ hash: "0x" + "ab".repeat(32) }).then(() => "no", (error) => error.name);
}

async function web3() {
  const { Web3 } = require("web3");
  const http = new Web3(httpUrl);
  if (step === "write") {
    const ws = new Web3(new Web3.providers.WebsocketProvider(wsUrl));
    const heads = [];
    const logs = [];
    const blocks = await ws.eth.subscribe("newBlockHeaders");
    blocks.on("data", (block) => heads.push(Number(block.number)));
    const events = await ws.eth.subscribe("logs", { topics: [TOPIC] });
    events.on("data", (log) => logs.push(Number(log.data)));
    http.eth.accounts.wallet.add(KEY);
    const send = (transaction) => http.eth.sendTransaction({ from: ACCOUNT, gas: 300000, ...transaction });
    const to = (await send({ data: CODE })).contractAddress;
    const receipts = [];
    for (let count = 0; count < 3; count += 1) receipts.push(await send({ to, data: TOPIC }));
    found.statuses = receipts.map((it) => Number(it.status));
    await until(() => logs.length >= 3 && heads.includes(Number(receipts[2].blockNumber)), "notifications");
    found.logs = logs.slice(0, 3);
    found.heads = heads.every((number, index) => index === 0 || number === heads[index - 1] + 1);
    await ws.eth.clearSubscriptions();
    ws.currentProvider.disconnect();
    return;
  }
  const logs = await http.eth.getPastLogs({ fromBlock: 0, toBlock: "latest", topics: [TOPIC] });
  const to = await contractOf(logs);
  found.logs = logs;
  const hash = logs[0].transactionHash;
  const batch = new http.BatchRequest();
  const batched = ["eth_blockNumber", "eth_chainId", "eth_gasPrice"].map((method, id) =>
    batch.add({ jsonrpc: "2.0", id: id + 1, method, params: [] }));
  await batch.execute();
  found.batched = await Promise.all(batched);
  found.answers = await Promise.all([
    http.eth.getChainId(), http.eth.getBlockNumber(), http.eth.getBalance(ACCOUNT), http.eth.getTransactionCount(ACCOUNT),
    http.eth.getCode(to), http.eth.getStorageAt(to, 0), http.eth.getBlock(0), http.eth.getBlock("latest", true),
    http.eth.getGasPrice(), http.eth.getTransaction(hash), http.eth.getTransactionReceipt(hash),
    http.eth.call({ to, data: TOPIC }), http.eth.estimateGas({ from: ACCOUNT, to, data: TOPIC }),
  ]);
  found.reverted = await http.eth.call({ to }).then(() => "no", (error) => error.cause?.data ?? error.data);
}

await { ethers, viem, web3 }[client]();
console.log(text(found));
process.exit(0);
