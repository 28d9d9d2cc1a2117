"""Tests a server with Triton's HTTP client and its default settings, which send and ask for binary data: client.py ADDRESS

A failed assertion ends the program with a traceback. The server has the models silero-vad, echo, many, strings and throws.
"""

import sys

import ml_dtypes
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

DATATYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}

# This client sends and reads them as binary data only.
BINARY_ONLY = ("FP16", "BF16")


def tensor(name, array, datatype, **form):
    result = triton.InferInput(name, list(array.shape), datatype)
    result.set_data_from_numpy(array, **form)
    return result


def requested(*names, **form):
    return [triton.InferRequestedOutput(name, **form) for name in names]


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
    for extension in ("binary_tensor_data", "model_configuration", "model_repository", "sequence", "statistics"):
        assert extension in metadata["extensions"], extension


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
        for form in ({}, {"binary_data": False}):
            if form and datatype in BINARY_ONLY:
                continue
            one, outputs = tensor("x", sent, datatype, **form), requested("output", **form) if form else None
            result = client.infer("echo", [one], outputs=outputs, request_id="7")
            assert result.get_response()["id"] == "7"
            received = result.as_numpy("output")
            assert received.dtype == kind and received.shape == (2, 3), datatype
            assert np.array_equal(received, sent), datatype
    one = tensor("x", np.ones([2], np.float32), "FP32")
    result = client.infer("many", [one], outputs=requested("output_2.sum", "output_1_0"))
    assert [output["name"] for output in result.get_response()["outputs"]] == ["output_2.sum", "output_1_0"]
    assert result.as_numpy("output_2.sum") == 2 and result.as_numpy("output_0") is None
    pending = [client.async_infer("echo", [one]) for _ in range(8)]
    assert all(np.array_equal(it.get_result().as_numpy("output"), [1, 1]) for it in pending)


def check_sizes(client):
    for count in (0, 1, 70_000, 2_000_000):
        large = np.random.default_rng(1).standard_normal(count)
        for form in ({}, {"binary_data": False}):
            if form and count > 100_000:
                continue
            result = client.infer("echo", [tensor("x", large, "FP64", **form)], outputs=requested("output", **form))
            assert np.array_equal(result.as_numpy("output"), large), (count, form)


def check_what_is_no_number(client):
    sent = np.array([np.nan, np.inf, -np.inf, -0.0, 0.1])
    for form in ({}, {"binary_data": False}):
        result = client.infer("echo", [tensor("x", sent, "FP64", **form)], outputs=requested("output", **form))
        assert np.array_equal(result.as_numpy("output"), sent, equal_nan=True), form


def check_strings(client):
    x = tensor("x", np.ones([1], np.float32), "FP32")
    texts = np.array(["a", "", "\u00e9", "x" * 100_000], dtype=np.object_)
    for form in ({}, {"binary_data": False}):
        outputs = requested("output_1", "output_0", **form) if form else None
        result = client.infer("strings", [x, tensor("names", texts, "BYTES", **form)], outputs=outputs)
        received = [it if isinstance(it, str) else it.decode() for it in result.as_numpy("output_1")]
        assert received == list(texts), form
        assert result.as_numpy("output_0") == 1
    result = client.infer("strings", [x, tensor("names", np.array([b"\xff"], dtype=np.object_), "BYTES")])
    assert result.as_numpy("output_1") == [b"\xff"]


def check_compression(client):
    large = np.zeros([100_000], np.float32)
    one = tensor("x", large, "FP32")
    for algorithm in ("gzip", "deflate"):
        both = dict(request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)
        for outputs in (None, requested("output", binary_data=False)):
            result = client.infer("echo", [one], outputs=outputs, **both)
            assert np.array_equal(result.as_numpy("output"), large), algorithm


def check_statistics(client):
    statistics = client.get_inference_statistics("echo")["model_stats"]
    assert [it["name"] for it in statistics] == ["echo"] and statistics[0]["execution_count"] > 8
    assert len(client.get_inference_statistics()["model_stats"]) == 5
    config = client.get_model_config("silero-vad")
    assert config["input"][0] == {"name": "input", "data_type": "TYPE_FP32", "dims": [-1, 512]}


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
    shared = triton.InferInput("x", [1], "FP32")
    shared.set_shared_memory("region", 4)
    assert "shared memory" in assert_refused(400, client.infer, "echo", [shared])
    assert "shared memory" in assert_refused(404, client.get_system_shared_memory_status)
    assert "trace" in assert_refused(404, client.get_trace_settings)
    assert "logging" in assert_refused(404, client.get_log_settings)
    classes = [triton.InferRequestedOutput("output", class_count=2)]
    assert "classification" in assert_refused(400, client.infer, "echo", [one], outputs=classes)


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


CHECKS = (
    check_server,
    check_models,
    check_inference,
    check_sizes,
    check_what_is_no_number,
    check_strings,
    check_compression,
    check_sequences,
    check_statistics,
    check_errors,
    check_repository,
)

with triton.InferenceServerClient(sys.argv[1], concurrency=4, network_timeout=60) as client:
    for check in CHECKS:
        check(client)
        print(check.__name__, "ok")
