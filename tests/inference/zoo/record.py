"""Saves models, and writes for each of them requests of the Open Inference Protocol with PyTorch's own answers.

The answers come from the saved file, which PyTorch loads and runs. The names of the outputs are those that the
server documents: `output`, `output_0`, `key`, `output_0_key`, …
"""

import copy
import json
import math
import os

import torch
from torch import Tensor

DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}


class given:
    """A request with these inputs, which the model answers. A dict names inputs by other names: `INPUT__0`."""

    parameters = {}

    def __init__(self, names=None, **inputs):
        self.inputs = {**(names or {}), **inputs}

    def expect(self, model):
        # By their names, and copies: the model may change its inputs.
        result = model(**{argument(model, name): copy.deepcopy(value) for name, value in self.inputs.items()})
        return {"outputs": [wire(name, value) for name, value in outputs(result)]}


class reset(given):
    """A request that resets the state of the model first."""

    parameters = {"reset_states": True}


class without(given):
    """A request that leaves out arguments, for which PyTorch wants None."""

    def __init__(self, left_out, **inputs):
        super().__init__(**inputs)
        self.left_out = left_out

    def expect(self, model):
        return given(**self.inputs, **dict.fromkeys(self.left_out)).expect(model)


class throws(given):
    """A request that PyTorch answers with an exception whose text has this word."""

    def __init__(self, word, **inputs):
        super().__init__(**inputs)
        self.word = word

    def expect(self, model):
        try:
            super().expect(model)
        except Exception as error:
            if self.word not in str(error):
                raise
            return {"refused": {"status": 422, "word": self.word}}
        raise AssertionError(f"PyTorch throws nothing with {self.word!r}")


class refused(given):
    """A request that the server refuses, since the protocol cannot say it, with this status and word."""

    def __init__(self, status, word, **inputs):
        super().__init__(**inputs)
        self.refused = {"status": status, "word": word}

    def expect(self, model):
        return {"refused": self.refused}


class Zoo:
    """A folder of models, and the requests to them."""

    def __init__(self, folder):
        self.folder = folder
        self.requests = []

    def add(self, name, model, *requests, **saving):
        """Saves a model, scripted unless it is a script already, and runs its requests."""
        if isinstance(model, torch.nn.Module) and not isinstance(model, torch.jit.ScriptModule):
            model = torch.jit.script(model.eval())
        version = os.path.join(self.folder, name, "1")
        os.makedirs(version)
        path = os.path.join(version, "model.pt")
        torch.jit.save(model, path, **saving)
        for request in requests:
            loaded = torch.jit.load(path)
            # As the server does, so that dropout and batch normalisation do not depend on how a module was saved.
            if hasattr(loaded, "training"):
                loaded.eval()
            with torch.no_grad():
                expected = request.expect(loaded)
            inputs = [wire(*part) for input, value in request.inputs.items() for part in parts(value, input)]
            body = {"inputs": inputs, "parameters": request.parameters}
            self.requests.append({"model": name, "body": body, **expected})

    def write(self, path):
        with open(path, "w") as file:
            json.dump(self.requests, file, allow_nan=False)


def argument(model, name):
    """The name of an argument that is named by its position, such as `INPUT__0`."""
    names = [it.name for it in model.forward.schema.arguments[1:]]
    position = name.removeprefix("INPUT__")
    return name if name in names or position == name else names[int(position)]


def parts(value, name):
    """The inputs that are parts of an argument, with their names."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (tuple, list)) and not is_tensor(value):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from parts(item, f"{name}.{key}")


def outputs(value, name=""):
    """The named tensors, numbers and strings in a result."""
    if value is None:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield from outputs(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)) and not is_tensor(value):
        for index, item in enumerate(value):
            yield from outputs(item, f"{name or 'output'}_{index}")
    else:
        yield name or "output", value


def is_tensor(value):
    """Whether a list becomes one tensor. An empty list is one of tensors in this zoo."""
    return isinstance(value, list) and len(value) > 0 and isinstance(value[0], (bool, int, float, str))


def wire(name, value):
    """A tensor of the protocol."""
    if isinstance(value, str):
        return {"name": name, "datatype": "BYTES", "shape": [], "data": [value]}
    if isinstance(value, list) and isinstance(value[0], str):
        return {"name": name, "datatype": "BYTES", "shape": [len(value)], "data": value}
    if not isinstance(value, Tensor):
        floats = isinstance(value, float) or isinstance(value, list) and isinstance(value[0], float)
        value = torch.tensor(value, dtype=torch.float64 if floats else None)
    if value.layout != torch.strided:
        value = value.to_dense()
    data = [number(element) for element in value.flatten().tolist()]
    return {"name": name, "datatype": DATATYPES[value.dtype], "shape": list(value.shape), "data": data}


def number(element):
    """JSON has no numbers for these; the protocol's names are strings."""
    if isinstance(element, float) and not math.isfinite(element):
        return "NaN" if math.isnan(element) else "Infinity" if element > 0 else "-Infinity"
    return element
