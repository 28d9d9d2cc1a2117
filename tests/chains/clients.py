"""What web3.py does, through the URL of a gateway or of a node.

clients.py STEP HTTP_URL WS_URL, as clients.mjs. Prints a JSON object of what it has found.
"""

import asyncio
import json
import sys

from web3 import AsyncWeb3, HTTPProvider, Web3, WebSocketProvider
from web3.exceptions import ContractCustomError, TransactionNotFound

STEP, HTTP_URL, WS_URL = sys.argv[1:]
KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
ACCOUNT = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
# The contract of clients.mjs.
CODE = (
    "0x6030600c60003960306000f3"
    "3615601f576000546001018060005560005260003560206000a160206000f35b63deadbeef60e01b60005260246000fd"
)
TOPIC = "0x" + "c1" * 32
DEADLINE = 20

http = Web3(HTTPProvider(HTTP_URL))


def send(**transaction):
    """Signs and sends a transaction, and waits for its receipt."""
    transaction = {
        "from": ACCOUNT,
        "nonce": http.eth.get_transaction_count(ACCOUNT),
        "gas": 300_000,
        "maxFeePerGas": http.to_wei(10, "gwei"),
        "maxPriorityFeePerGas": http.to_wei(1, "gwei"),
        "chainId": http.eth.chain_id,
        "value": 0,
        **transaction,
    }
    signed = http.eth.account.sign_transaction(transaction, KEY)
    sent = http.eth.send_raw_transaction(signed.raw_transaction)
    return http.eth.wait_for_transaction_receipt(sent, timeout=DEADLINE, poll_latency=0.02)


async def write():
    to = (await asyncio.to_thread(send, data=CODE)).contractAddress
    async with AsyncWeb3(WebSocketProvider(WS_URL)) as ws:
        heads = await ws.eth.subscribe("newHeads")
        await ws.eth.subscribe("logs", {"address": to})
        receipts = [await asyncio.to_thread(send, to=to, data=TOPIC) for _ in range(3)]
        numbers, logs = [], []

        async def listen():
            async for message in ws.socket.process_subscriptions():
                if message["subscription"] == heads:
                    numbers.append(message["result"]["number"])
                else:
                    logs.append(int(message["result"]["data"].hex(), 16))
                if len(logs) == 3 and receipts[2].blockNumber in numbers:
                    break

        await asyncio.wait_for(listen(), DEADLINE)
    polled = http.eth.filter({"address": to, "fromBlock": "latest"})
    polled.get_new_entries()
    send(to=to, data=TOPIC)
    return {
        "statuses": [receipt.status for receipt in receipts],
        "logs": logs,
        "heads": numbers == list(range(numbers[0], numbers[0] + len(numbers))),
        "polled": [int(log.data.hex(), 16) for log in polled.get_new_entries()],
    }


def reverted(to):
    try:
        http.eth.call({"to": to})
    except ContractCustomError as error:
        return str(error.data)
    return "no"


def missing():
    try:
        http.eth.get_transaction("0x" + "ab" * 32)
    except TransactionNotFound:
        return "missing"
    return "no"


def read():
    logs = http.eth.get_logs({"fromBlock": 0, "toBlock": "latest", "topics": [TOPIC]})
    to, sent = logs[0].address, logs[0].transactionHash
    with http.batch_requests() as batch:
        for number in range(3):
            batch.add(http.eth.get_block(number))
        blocks = batch.execute()
    answers = [
        http.client_version,
        http.eth.chain_id,
        http.eth.block_number,
        http.eth.get_balance(ACCOUNT),
        http.eth.get_transaction_count(ACCOUNT),
        http.eth.get_code(to),
        http.eth.get_storage_at(to, 0),
        http.eth.get_block("latest", True),
        http.eth.gas_price,
        http.eth.fee_history(4, "latest", [25, 75]),
        http.eth.get_transaction(sent),
        http.eth.get_transaction_receipt(sent),
        http.eth.get_raw_transaction(sent),
        http.eth.call({"to": to, "data": TOPIC}),
        http.eth.estimate_gas({"from": ACCOUNT, "to": to, "data": TOPIC}),
        reverted(to),
        missing(),
    ]
    return {"logs": logs, "blocks": blocks, "answers": answers}


print(Web3.to_json(asyncio.run(write()) if STEP == "write" else read()))
