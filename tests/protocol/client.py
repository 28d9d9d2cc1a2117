"""Tests a server with Triton's HTTP client: client.py ADDRESS

A failed assertion ends the program with a traceback. The server has the models silero-vad, echo, many and throws.
"""

import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}


def tensor(name, array, datatype):
    result = triton.InferInput(name, list(array.shape), datatype)
    result.set_data_from_numpy(array, binary_data=False)
    return result


def requested(*names):
    return [triton.InferRequestedOutput(name, binary_data=False) for name in names]


def assert_refused(status, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        assert error.status() == str(status) or error.status() == status, error
        assert error.message(), error
        return error.message()
    raise AssertionError(f"{call.__name__} was not refused")


def check_server(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "headroom"
    assert "model_repository" in metadata["extensions"]


def check_models(client):
    metadata = client.get_model_metadata("silero-vad")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"][0] == {"name": "input", "datatype": "FP32", "shape": [-1, 512]}
    assert metadata["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 1]}]
    assert client.is_model_ready("silero-vad")
    assert client.is_model_ready("silero-vad", "1")
    assert not client.is_model_ready("silero-vad", "2")
    assert not client.is_model_ready("none")
    assert "none" in assert_refused(404, client.get_model_metadata, "none")


def check_inference(client):
    for datatype, kind in DATATYPES.items():
        sent = np.array([[0, 1, 2], [3, 4, 5]]).astype(kind)
        result = client.infer("echo", [tensor("x", sent, datatype)], request_id="7")
        assert result.get_response()["id"] == "7"
        received = result.as_numpy("output")
        assert received.dtype == kind and received.shape == (2, 3), datatype
        assert np.array_equal(received, sent), datatype
    large = np.random.default_rng(1).standard_normal((512, 1024))
    result = client.infer("echo", [tensor("x", large, "FP64")], outputs=requested("output"))
    assert np.array_equal(result.as_numpy("output"), large)
    one = tensor("x", np.ones([2], np.float32), "FP32")
    result = client.infer("many", [one], outputs=requested("output_2.sum", "output_1_0"))
    assert [output["name"] for output in result.get_response()["outputs"]] == ["output_2.sum", "output_1_0"]
    assert result.as_numpy("output_2.sum") == 2 and result.as_numpy("output_0") is None
    pending = [client.async_infer("echo", [one]) for _ in range(8)]
    assert all(np.array_equal(it.get_result().as_numpy("output"), [1, 1]) for it in pending)


def check_sequences(client):
    silence = tensor("input", np.zeros((1, 512), np.float32), "FP32")
    arguments = dict(inputs=[silence], outputs=requested("output"))
    for id in (7, "seven"):
        first = client.infer("silero-vad", **arguments, sequence_id=id, sequence_start=True).as_numpy("output")
        second = client.infer("silero-vad", **arguments, sequence_id=id).as_numpy("output")
        assert first.shape == (1, 1) and 0 < first < 0.5 and first != second
        client.infer("silero-vad", **arguments, sequence_id=id, sequence_end=True)
        assert f'"{id}"' in assert_refused(400, client.infer, "silero-vad", **arguments, sequence_id=id)


def check_errors(client):
    one = tensor("x", np.ones([1], np.float32), "FP32")
    assert "none" in assert_refused(404, client.infer, "none", [one])
    assert "refuses" in assert_refused(422, client.infer, "throws", [one])
    assert "input" in assert_refused(400, client.infer, "silero-vad", [one])
    binary = triton.InferInput("x", [1], "FP32")
    binary.set_data_from_numpy(np.ones([1], np.float32), binary_data=True)
    assert "binary" in assert_refused(400, client.infer, "echo", [binary])


def check_repository(client):
    def state(name):
        return next(it["state"] for it in client.get_model_repository_index() if it["name"] == name)

    client.unload_model("echo")
    assert state("echo") == "UNAVAILABLE"
    client.load_model("echo")
    assert state("echo") == "READY"
    client.unload_model("echo")
    assert state("echo") == "UNAVAILABLE"
    assert "none" in assert_refused(404, client.load_model, "none")


with triton.InferenceServerClient(sys.argv[1], concurrency=4, network_timeout=60) as client:
    for check in (check_server, check_models, check_inference, check_sequences, check_errors, check_repository):
        check(client)
        print(check.__name__, "ok")
