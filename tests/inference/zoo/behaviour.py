"""Models that print, throw, fork, keep state, or are large."""

from enum import Enum
from typing import Dict, List, Optional, Tuple
import warnings

import torch
from torch import Tensor, nn

from record import given, refused, reset, throws


class Prints(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("the input is", x, "and 100 %s\n\x1b[31m")
        for _ in range(1000):
            print("again and again and again and again and again and again and again")
        warnings.warn("a warning of the model")
        return x + 1


class Raises(nn.Module):
    def forward(self, x: Tensor, kind: int = 0) -> Tensor:
        if kind == 1:
            raise ValueError("the value is no good")
        if kind == 2:
            raise RuntimeError("first line\nRuntimeError: second line")
        assert x.numel() > 1, "too few numbers"
        return x


class Quotient(nn.Module):
    def forward(self, x: Tensor, divisor: int) -> Tensor:
        return x + 7 // divisor


class Fails(nn.Module):
    """Errors of libtorch's operations."""

    def forward(self, x: Tensor, kind: int) -> Tensor:
        if kind == 0:
            return x.reshape(7, 7)
        if kind == 1:
            return x[100]
        if kind == 2:
            return torch.stack([x, x[1:]])
        if kind == 3:
            items: List[Tensor] = []
            return items[0]
        if kind == 4:
            found = {"a": x}
            return found["b"]
        if kind == 5:
            nothing: Optional[Tensor] = None
            assert nothing is not None
            return nothing
        if kind == 6:
            return torch.linalg.cholesky(-torch.eye(2))
        return x


class Forks(nn.Module):
    def branch(self, x: Tensor, n: int) -> Tensor:
        return x * n

    def forward(self, x: Tensor) -> Tensor:
        futures: List[torch.jit.Future[Tensor]] = []
        for n in range(20):
            futures.append(torch.jit.fork(self.branch, x, n))
        total = torch.zeros_like(x)
        for future in futures:
            total = total + torch.jit.wait(future)
        return total


def leaf(x: Tensor) -> Tensor:
    return x + 1


def inner(x: Tensor) -> Tensor:
    return torch.jit.wait(torch.jit.fork(leaf, x)) * 2


class ForksInForks(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        a, b = torch.jit.fork(inner, x), torch.jit.fork(inner, -x)
        return torch.jit.wait(a), torch.jit.wait(b)


def thrower(x: Tensor) -> Tensor:
    if x.numel() < 100:
        raise ValueError("thrown in a fork")
    return x


class ThrowsInAFork(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(thrower, x))


class LeavesAFork(nn.Module):
    """Nothing waits for it, and it throws."""

    def forward(self, x: Tensor) -> Tensor:
        future = torch.jit.fork(thrower, x)
        return x + 1


class ReturnsAFuture(nn.Module):
    def forward(self, x: Tensor) -> torch.jit.Future[Tensor]:
        return torch.jit.fork(leaf, x)


class HugeParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(16 << 20, dtype=torch.float32).reshape(4096, 4096))

    def forward(self, row: Tensor) -> Tensor:
        return self.weight[row].sum(-1) / 4096


class ManyParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(400)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + 0.01 * layer(x)
        return x


class LongCode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for i in range(10):
            for j in range(10):
                x = x * 0.5 + (i - j)
        return x


class Deep(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.inner = Deep(depth - 1) if depth > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 1


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += x.sum()
        return self.count.clone()

    @torch.jit.export
    def reset_states(self):
        self.count.zero_()


class Mode(Enum):
    ADD = 1
    SUBTRACT = 2


class Attributes(nn.Module):
    """Attributes that are no tensors."""

    names: List[str]
    table: Dict[str, Tuple[int, float]]

    def __init__(self):
        super().__init__()
        self.names = ["a", "ü", '"quoted"\n']
        self.table = {"a": (1, 0.5), "ü": (2, 0.25), '"quoted"\n': (3, float("inf"))}
        self.mode = Mode.SUBTRACT
        self.nothing: Optional[Tensor] = None
        self.scale = torch.jit.Attribute(3.0, float)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            number, factor = self.table[name]
            x = x + number * min(factor, self.scale)
        if self.mode == Mode.SUBTRACT:
            x = x - 1
        if self.nothing is not None:
            x = x * 0
        return x


@torch.jit.script
class Accumulator:
    def __init__(self, start: float):
        self.total = start

    def add(self, x: Tensor) -> None:
        self.total += float(x.sum())


class ScriptClass(nn.Module):
    def forward(self, x: Tensor) -> float:
        accumulator = Accumulator(0.5)
        accumulator.add(x)
        accumulator.add(x)
        return accumulator.total


class ReturnsAnObject(nn.Module):
    def forward(self, x: Tensor) -> Accumulator:
        return Accumulator(1.0)


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

        def double(self, inputs: Tuple[Tensor], output: Tensor) -> Tensor:
            return output * 2

        self.linear.register_forward_hook(double)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Shared(nn.Module):
    """One weight under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Training(nn.Module):
    """Left in the mode of training: it counts batches."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Device(nn.Module):
    """Moves tensors to a device that there is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.device("cuda"))


class Seeded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(7)
        return x + torch.rand(3)


class Gradient(nn.Module):
    """Its parameters want gradients, and the result is in place."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.mul_(1.0)
        return x.mul_(self.weight)


def add_to(zoo):
    x = torch.tensor([1.0, -2.0, 3.5])
    zoo.add("prints", Prints(), given(x=x))
    zoo.add(
        "raises",
        Raises(),
        given(x=x),
        throws("the value is no good", x=x, kind=1),
        throws("second line", x=x, kind=2),
        throws("too few numbers", x=x[:1]),
        given(x=x),
    )
    zoo.add("quotient", Quotient(), given(x=x, divisor=2), throws("division by 0", x=x, divisor=0))
    words = ["invalid for input of size 3", "index 100 out of range", "equal size", "list index out of range"]
    words += ["KeyError", "AssertionError", "positive-definite"]
    failures = [throws(word, x=x, kind=kind) for kind, word in enumerate(words)]
    zoo.add("fails", Fails(), *failures, given(x=x, kind=9))
    zoo.add("forks", Forks(), given(x=x))
    zoo.add("forks_in_forks", ForksInForks(), given(x=x))
    zoo.add("throws_in_a_fork", ThrowsInAFork(), throws("thrown in a fork", x=x), given(x=torch.rand(100)))
    zoo.add("leaves_a_fork", LeavesAFork(), given(x=x), given(x=x))
    zoo.add("returns_a_future", ReturnsAFuture(), refused(422, "output", x=x))
    zoo.add("huge_parameter", HugeParameter(), given(row=torch.tensor([0, 4095])))
    constant = torch.rand(2 << 20)
    huge_constant = torch.jit.trace(lambda x: x + constant[:3] + constant.sum(), x)
    zoo.add("huge_constant", huge_constant, given(x=x))
    zoo.add("many_parameters", ManyParameters(), given(x=torch.rand(1, 2)))
    zoo.add("long_code", torch.jit.trace(LongCode(), x), given(x=x))
    zoo.add("deep", Deep(60), given(x=x))
    zoo.add("counter", Counter(), reset(x=x), reset(x=x + 1))
    zoo.add("attributes", Attributes(), given(x=x))
    zoo.add("script_class", ScriptClass(), given(x=x))
    zoo.add("returns_an_object", ReturnsAnObject(), refused(422, "output", x=x))
    zoo.add("hooked", Hooked(), given(x=x))
    zoo.add("shared", Shared(), given(x=x))
    zoo.add("training", torch.jit.script(Training()), given(x=torch.rand(4, 3)))
    zoo.add("no_device", Device(), throws("CUDA", x=x))
    zoo.add("seeded", Seeded(), given(x=x), given(x=x))
    zoo.add("gradient", Gradient(), given(x=x))
