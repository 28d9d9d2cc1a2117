"""Models on every kind of tensor: as inputs, as results, as weights; also quantised ones."""

from typing import Dict, Tuple

import torch
from torch import Tensor, nn
from torch.ao import quantization

from record import DATATYPES, given, refused, throws


class Echo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Computes(nn.Module):
    """The same in each kind, with the promotion to others that PyTorch has."""

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return {
            "sum": x.sum(),
            "times": x * 2,
            "half": x / 2,
            "positive": x > 0,
            "index": x.argmax(),
            "with_float": x + torch.tensor(0.5),
            "with_int": x + torch.tensor(3),
        }


class Casts(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return {
            "bool": x.to(torch.bool),
            "uint8": x.to(torch.uint8),
            "int8": x.to(torch.int8),
            "int16": x.short(),
            "int32": x.int(),
            "int64": x.long(),
            "float16": x.half(),
            "bfloat16": x.to(torch.bfloat16),
            "float32": x.float(),
            "float64": x.double(),
        }


class Mixed(nn.Module):
    def forward(self, index: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        return weight[index.long()].masked_fill(mask, 0.0).sum(-1)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class HalfInside(nn.Module):
    """Floats outside, half precision inside."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 4).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(torch.bfloat16)).float()


class Quantised(nn.Module):
    """Quantises its input and its result's tensors."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        q = torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)
        scales = torch.tensor([0.1, 0.2])
        channels = torch.quantize_per_channel(x, scales, torch.zeros(2, dtype=torch.long), 0, torch.qint8)
        return q.dequantize(), q.int_repr(), channels.dequantize()


class QuantisedResult(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)


class Converted(nn.Module):
    """To kinds that cannot be sent."""

    def forward(self, x: Tensor, kind: int) -> Tensor:
        if kind == 0:
            return x.to(torch.float8_e4m3fn)
        if kind == 1:
            return torch.complex(x, x).to(torch.complex32)
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint32)


class QuantisedOperand(nn.Module):
    """An operation that quantised tensors do not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cos(torch.quantize_per_tensor(x, 0.1, 10, torch.quint8))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant = quantization.QuantStub()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(4 * 6 * 6, 3)
        self.dequant = quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(self.quant(x))))
        return self.dequant(self.linear(x.flatten(1)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, num_layers=2, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(16, 8, mode="sum", include_last_offset=True)

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        return self.bag(words, offsets)


def statically_quantised(engine):
    torch.backends.quantized.engine = engine
    model = Convolution().eval()
    model = quantization.fuse_modules(model, [["conv", "norm", "relu"]])
    model.qconfig = quantization.get_default_qconfig(engine)
    prepared = quantization.prepare(model)
    prepared(torch.rand(8, 1, 8, 8))
    return quantization.convert(prepared)


def dynamically_quantised(model, parts, dtype=torch.qint8):
    torch.backends.quantized.engine = "x86"
    return quantization.quantize_dynamic(model.eval(), parts, dtype=dtype)


def limits(dtype):
    """Numbers at the limits of a kind, and what is none."""
    if dtype == torch.bool:
        return torch.tensor([True, False, True])
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        return torch.tensor([info.min, 0, 1, info.max], dtype=dtype)
    info = torch.finfo(dtype)
    nothing = [float("nan"), float("inf"), float("-inf"), -0.0]
    return torch.tensor([info.min, info.tiny, info.eps, info.max, 1 / 3, *nothing], dtype=dtype)


def add_to(zoo):
    shapes = [(), (1,), (0,), (2, 0, 3), (2, 3, 4), (1, 1, 1, 1, 1, 2)]
    echoed = [given(x=limits(dtype)) for dtype in DATATYPES]
    echoed += [given(x=torch.rand(shape)) for shape in shapes]
    zoo.add("echo", Echo(), *echoed)
    small = torch.tensor([[1, 0, 3], [7, 5, 2]])
    # There are few operations on the others.
    rare = (torch.bool, torch.uint16, torch.uint32, torch.uint64)
    kinds = [dtype for dtype in DATATYPES if dtype not in rare]
    zoo.add("computes", Computes(), *[given(x=small.to(dtype)) for dtype in kinds])
    cast = [given(x=small.to(dtype)) for dtype in DATATYPES]
    zoo.add("casts", Casts(), *cast, given(x=torch.tensor([0.5, 2.5, 100.9])))
    index = torch.tensor([2, 0], dtype=torch.int32)
    mask = torch.tensor([[True, False], [False, False]])
    zoo.add("mixed_kinds", Mixed(), given(index=index, weight=torch.rand(3, 2, dtype=torch.float64), mask=mask))

    x = torch.rand(2, 8)
    zoo.add("linear", Linear(), given(x=x), throws("dtype", x=x.double()))
    zoo.add("linear_double", Linear().double(), given(x=x.double()))
    zoo.add("linear_half", Linear().half(), given(x=x.half()))
    zoo.add("linear_bfloat16", Linear().bfloat16(), given(x=x.to(torch.bfloat16)))
    zoo.add("half_inside", HalfInside(), given(x=x))

    zoo.add("quantised", Quantised(), given(x=torch.rand(2, 5)))
    zoo.add("quantised_result", QuantisedResult(), refused(422, "QUInt8", x=x))
    words = ["loat8", "omplex", "QInt32"]
    zoo.add("converted", Converted(), *[refused(422, word, x=x, kind=kind) for kind, word in enumerate(words)])
    zoo.add("quantised_operand", QuantisedOperand(), throws("QuantizedCPU", x=x))
    zoo.add("quantised_linear", dynamically_quantised(Linear(), {nn.Linear}), given(x=x))
    zoo.add("quantised_linear_half", dynamically_quantised(Linear(), {nn.Linear}, torch.float16), given(x=x))
    zoo.add("quantised_lstm", dynamically_quantised(Recurrent(), {nn.LSTM}), given(x=torch.rand(5, 1, 8)))
    pictures = torch.rand(2, 1, 8, 8)
    for engine in ["x86", "fbgemm", "onednn"]:
        zoo.add(f"quantised_convolution_{engine}", statically_quantised(engine), given(x=pictures))
    words, offsets = torch.tensor([1, 5, 2, 9]), torch.tensor([0, 2, 4])
    bag = Bag().eval()
    bag.qconfig = quantization.float_qparams_weight_only_qconfig
    bag = quantization.convert(quantization.prepare(bag))
    zoo.add("quantised_embedding_bag", bag, given(words=words, offsets=offsets))
