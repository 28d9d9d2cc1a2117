"""Tests a server with Triton's HTTP client for asyncio and its default settings: asyncio_client.py ADDRESS

A failed assertion ends the program with a traceback. The server has the models of client.py.
"""

import asyncio
import sys

import numpy as np
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException


def tensor(name, array, datatype, **form):
    result = triton.InferInput(name, list(array.shape), datatype)
    result.set_data_from_numpy(array, **form)
    return result


async def check_models(client):
    assert await client.is_server_live() and await client.is_server_ready()
    assert "binary_tensor_data" in (await client.get_server_metadata())["extensions"]
    assert await client.is_model_ready("echo")
    assert not await client.is_model_ready("none")
    assert (await client.get_model_metadata("silero-vad"))["versions"] == ["1"]
    assert (await client.get_model_config("silero-vad"))["name"] == "silero-vad"
    assert any(it["name"] == "echo" for it in await client.get_model_repository_index())


async def check_inference(client):
    for count in (1, 100_000):
        sent = np.random.default_rng(1).standard_normal(count).astype(np.float32)
        for form in ({}, {"binary_data": False}):
            outputs = [triton.InferRequestedOutput("output", **form)] if form else None
            for algorithm in (None, "gzip", "deflate"):
                both = dict(request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)
                result = await client.infer("echo", [tensor("x", sent, "FP32", **form)], outputs=outputs, **both)
                assert np.array_equal(result.as_numpy("output"), sent), (count, form, algorithm)
    one = tensor("x", np.ones([2], np.float32), "FP32")
    results = await asyncio.gather(*(client.infer("echo", [one]) for _ in range(16)))
    assert all(np.array_equal(it.as_numpy("output"), [1, 1]) for it in results)
    texts = np.array(["a", "\u00e9"], dtype=np.object_)
    result = await client.infer("strings", [one, tensor("names", texts, "BYTES")])
    assert [it.decode() for it in result.as_numpy("output_1")] == list(texts)


async def check_errors(client):
    one = tensor("x", np.ones([1], np.float32), "FP32")
    for status, model in ((404, "none"), (422, "throws"), (400, "silero-vad")):
        try:
            await client.infer(model, [one])
        except InferenceServerException as error:
            assert str(error.status()) == str(status) and error.message(), error
        else:
            raise AssertionError(f"{model} was not refused")


async def check_repository(client):
    await client.unload_model("echo")
    await client.load_model("echo")
    statistics = await client.get_inference_statistics("echo")
    assert statistics["model_stats"][0]["inference_stats"]["success"]["count"] > 16


async def main():
    async with triton.InferenceServerClient(sys.argv[1], conn_limit=4, conn_timeout=60) as client:
        for check in (check_models, check_inference, check_errors, check_repository):
            await check(client)
            print(check.__name__, "ok")


asyncio.run(main())
