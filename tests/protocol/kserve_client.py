"""Tests a server with KServe's REST client: kserve_client.py ADDRESS

A failed assertion ends the program with a traceback. The server has the models of client.py.
"""

import asyncio
import importlib.util
import sys
import types

import httpx
import numpy as np

# The package's own __init__ imports all of KServe, with a client of Kubernetes. The client of the protocol needs little.
package = types.ModuleType("kserve")
package.__path__ = importlib.util.find_spec("kserve").submodule_search_locations
sys.modules["kserve"] = package

from kserve.inference_client import InferenceRESTClient, RESTConfig  # noqa: E402
from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput  # noqa: E402

URL = f"http://{sys.argv[1]}"


def tensor(name, array, datatype, **form):
    result = InferInput(name, list(array.shape), datatype)
    result.set_data_from_numpy(array, **form)
    return result


async def infer(client, model, inputs, **named):
    request = InferRequest(model, inputs, request_id="7", **named)
    response = await client.infer(URL, request, model_name=model)
    assert response.id == "7" and response.model_name == model, response
    return response


async def check_models(client):
    assert await client.is_server_live(URL) and await client.is_server_ready(URL)
    assert await client.is_model_ready(URL, "echo")
    assert not await client.is_model_ready(URL, "none")


async def check_inference(client):
    # Binary data is the default of inputs, JSON that of outputs.
    forms = ({}, {"binary_data": False})
    asked = ({}, {"parameters": {"binary_data_output": True}})
    for datatype, kind in {"BOOL": np.bool_, "UINT16": np.uint16, "INT64": np.int64, "FP32": np.float32}.items():
        sent = np.array([[0, 1, 2], [3, 4, 5]]).astype(kind)
        for form in forms:
            for outputs in asked:
                response = await infer(client, "echo", [tensor("x", sent, datatype, **form)], **outputs)
                (output,) = response.outputs
                assert output.datatype == datatype and output.shape == [2, 3], output
                assert np.array_equal(output.as_numpy(), sent), (datatype, form, outputs)
    large = np.random.default_rng(1).standard_normal(200_000)
    for outputs in asked:
        response = await infer(client, "echo", [tensor("x", large, "FP64")], **outputs)
        assert np.array_equal(response.outputs[0].as_numpy(), large)
    one = tensor("x", np.ones([2], np.float32), "FP32")
    wanted = [RequestedOutput("output_1_0", {"binary_data": True}), RequestedOutput("output_0")]
    response = await infer(client, "many", [one], request_outputs=wanted)
    assert [output.name for output in response.outputs] == ["output_1_0", "output_0"]


async def check_what_is_no_number(client):
    sent = np.array([np.nan, np.inf, -np.inf])
    for outputs in ({}, {"parameters": {"binary_data_output": True}}):
        response = await infer(client, "echo", [tensor("x", sent, "FP64")], **outputs)
        assert np.array_equal(response.outputs[0].as_numpy(), sent, equal_nan=True)


async def check_strings(client):
    one = tensor("x", np.ones([2], np.float32), "FP32")
    texts = np.array([b"a", "\u00e9".encode()], dtype=np.object_)
    for form in ({}, {"binary_data": False}):
        for outputs in ({}, {"parameters": {"binary_data_output": True}}):
            response = await infer(client, "strings", [one, tensor("names", texts, "BYTES", **form)], **outputs)
            received = [it if isinstance(it, str) else it.decode() for it in response.outputs[1].as_numpy()]
            assert received == ["a", "\u00e9"], (form, outputs)


async def check_errors(client):
    one = tensor("x", np.ones([1], np.float32), "FP32")
    for status, model in ((404, "none"), (422, "throws"), (400, "silero-vad")):
        try:
            await infer(client, model, [one])
        except httpx.HTTPStatusError as error:
            assert error.response.status_code == status and error.response.json()["error"], error
        else:
            raise AssertionError(f"{model} was not refused")


async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    for check in (check_models, check_inference, check_what_is_no_number, check_strings, check_errors):
        await check(client)
        print(check.__name__, "ok")
    await client.close()


asyncio.run(main())
