"""Models that differ in what they take."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from record import given, refused, without


class OneTensor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 + 1


class ManyTensors(nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
        return a - b + c * d / e


class NoInputs(nn.Module):
    def forward(self) -> Tensor:
        return torch.arange(4)


class OptionalTensor(nn.Module):
    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        return x if mask is None else x.masked_fill(mask, -1.0)


class OptionalWithoutDefault(nn.Module):
    def forward(self, x: Tensor, bias: Optional[Tensor], scale: Tensor) -> Tensor:
        y = x * scale
        return y if bias is None else y + bias


class OptionalInTheMiddle(nn.Module):
    def forward(
        self, x: Tensor, mask: Optional[Tensor] = None, scale: float = 2.0, shift: Optional[Tensor] = None
    ) -> Tensor:
        y = x * scale
        if mask is not None:
            y = y * mask
        return y if shift is None else y + shift


class OptionalNumbers(nn.Module):
    def forward(
        self, x: Tensor, i: Optional[int] = None, f: Optional[float] = 0.5, b: Optional[bool] = None
    ) -> Tensor:
        if i is not None:
            x = x + i
        if f is not None:
            x = x * f
        if b is not None and b:
            x = -x
        return x


class Numbers(nn.Module):
    def forward(self, x: Tensor, i: int, f: float, b: bool) -> Tensor:
        return (x + i) * f if b else x


class Defaults(nn.Module):
    def forward(
        self,
        x: Tensor,
        i: int = -7,
        f: float = 1e-5,
        b: bool = True,
        mode: str = 'it\'s "mean"\n',
        sizes: Optional[List[int]] = None,
        large: int = 9007199254740993,
    ) -> Tuple[Tensor, int]:
        y = x + i + f
        if b:
            y = y.neg()
        if mode == 'it\'s "mean"\n':
            y = y.mean(0, keepdim=True)
        if sizes is not None:
            y = y.reshape(sizes)
        return y, large


class KeywordOnly(nn.Module):
    def forward(self, x: Tensor, *, times: int, plus: Optional[Tensor]) -> Tensor:
        y = x * times
        return y if plus is None else y + plus


class AnyNumber(nn.Module):
    def forward(self, x: Tensor, n: Union[int, float] = 3) -> Tensor:
        if isinstance(n, int):
            return x + n
        return x - n


class AnyValue(nn.Module):
    def forward(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            return x + 1
        return torch.zeros(1)


class StringInput(nn.Module):
    def forward(self, x: Tensor, mode: str) -> Tensor:
        return -x if mode == "neg" else x


class ListInput(nn.Module):
    def forward(self, xs: List[Tensor]) -> Tensor:
        return torch.cat(xs)


class DictInput(nn.Module):
    def forward(self, xs: Dict[str, Tensor]) -> Tensor:
        return xs["a"] + xs["b"]


class TupleInput(nn.Module):
    def forward(self, pair: Tuple[Tensor, Tensor]) -> Tensor:
        return pair[0] + pair[1]


class Point(NamedTuple):
    x: Tensor
    y: Tensor


class NamedTupleInput(nn.Module):
    def forward(self, point: Point) -> Tensor:
        return point.x + point.y


class NestedInput(nn.Module):
    def forward(self, x: Tuple[Tensor, Tuple[Tensor, int, str], List[Tensor], Dict[str, Tensor]]) -> Tensor:
        first, (second, times, mode), more, named = x
        y = first + second * times
        for tensor in more:
            y = y + tensor
        for name, tensor in named.items():
            y = y * tensor if name == mode else y - tensor
        return y


class ListsOfScalars(nn.Module):
    def forward(self, x: Tensor, i: List[int], f: List[float], b: List[bool], s: List[str]) -> Tuple[Tensor, str]:
        for number in f:
            x = x * number
        return x.sum(i, keepdim=b[0]), "+".join(s)


class OptionalParts(nn.Module):
    def forward(
        self,
        x: Tensor,
        more: Optional[List[Tensor]] = None,
        named: Optional[Dict[str, Tensor]] = None,
        pair: Optional[Tuple[Tensor, float]] = None,
    ) -> Tensor:
        if more is not None:
            x = x + more[0]
        if named is not None:
            x = x * named["a"]
        return x if pair is None else x - pair[0] * pair[1]


class TraceOfParts(nn.Module):
    def forward(self, x, pair, named):
        return {"y": x + pair[0] * pair[1] - named["a"]}


class DefaultsOfParts(nn.Module):
    def forward(
        self, x: Tensor, limit: float = float("inf"), pair: Tuple[int, float] = (1, 2.0)
    ) -> Tuple[Tensor, float]:
        return (x + pair[0]) * pair[1], limit


class OptionalString(nn.Module):
    def forward(self, x: Tensor, mode: Optional[str] = None) -> Tensor:
        return x if mode is None else x + len(mode)


class ListOfListsInput(nn.Module):
    def forward(self, x: List[List[Tensor]]) -> Tensor:
        return x[0][0]


class DictOfIntsInput(nn.Module):
    def forward(self, x: Tensor, sizes: Optional[Dict[str, int]] = None) -> Tensor:
        return x


class OptionalTupleInput(nn.Module):
    """As LSTM takes its state."""

    def forward(self, x: Tensor, state: Optional[Tuple[Tensor, Tensor]] = None) -> Tensor:
        return x if state is None else x + state[0] + state[1]


class OptionalListInput(nn.Module):
    def forward(self, x: Tensor, dims: Optional[List[int]] = None) -> Tensor:
        return x if dims is None else x.sum(dims)


class OddNames(nn.Module):
    def forward(self, input: Tensor, output: Tensor, type: Tensor, INPUT__0: Tensor) -> Tensor:
        return input - output * type / INPUT__0


class PositionalNames(nn.Module):
    def forward(self, x: Tensor, k: int = 3, y: Optional[Tensor] = None) -> Tensor:
        z = x * k
        return z if y is None else z + y


class ChangesItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        before = x.clone()
        x.zero_()
        return before, x


def add_to(zoo):
    x = torch.tensor([1.0, -2.0, 3.5])
    zoo.add("one_tensor", OneTensor(), given(x=x), given(x=torch.zeros(2, 0)), refused(400, "missing"))
    five = {name: torch.rand(2, 3) + 1 for name in "abcde"}
    zoo.add("many_tensors", ManyTensors(), given(five), given(dict(reversed(five.items()))))
    zoo.add("no_inputs", NoInputs(), given(), refused(400, "no input", x=x))
    mask = torch.tensor([True, False, True])
    zoo.add("optional_tensor", OptionalTensor(), given(x=x), given(x=x, mask=mask), refused(400, "missing", mask=mask))
    scale = torch.tensor(2.0)
    zoo.add(
        "optional_without_default",
        OptionalWithoutDefault(),
        without(["bias"], x=x, scale=scale),
        given(x=x, bias=-x, scale=scale),
    )
    zoo.add(
        "optional_in_the_middle",
        OptionalInTheMiddle(),
        given(x=x),
        given(x=x, scale=3.0),
        given(x=x, mask=torch.tensor([0.0, 1.0, 0.5])),
        given(x=x, shift=x),
        given(x=x, mask=x, shift=x),
    )
    zoo.add(
        "optional_numbers",
        OptionalNumbers(),
        given(x=x),
        given(x=x, i=3),
        given(x=x, f=-1.5),
        given(x=x, b=True),
        given(x=x, i=-(2**40), f=0.0, b=False),
    )
    zoo.add(
        "numbers",
        Numbers(),
        given(x=x, i=2, f=0.25, b=True),
        given(x=x, i=2, f=0.25, b=False),
        refused(400, "missing", x=x, i=2, f=0.25),
        refused(400, "one value", x=x, i=torch.tensor([1, 2]), f=0.25, b=True),
    )
    zoo.add(
        "defaults",
        Defaults(),
        given(x=x),
        given(x=x, i=1),
        given(x=x, b=False),
        given(x=x, f=2.0, large=3),
        given(x=x, mode="other", sizes=[3, 1]),
    )
    zoo.add("keyword_only", KeywordOnly(), given(x=x, times=4, plus=x))
    zoo.add("any_number", AnyNumber(), given(x=x))
    zoo.add("any_value", AnyValue(), given(x=x))
    zoo.add("string_input", StringInput(), given(x=x, mode="neg"), given(x=x, mode="ü"))
    zoo.add("list_input", ListInput(), given(xs=[x]), given(xs=[x, -x, x]), refused(400, "List[Tensor]", xs=x))
    zoo.add(
        "dict_input",
        DictInput(),
        given(xs={"a": x, "b": x}),
        given(xs={"b": x, "ü": x, "a": -x}),
        refused(400, "Dict[str, Tensor]", xs=x),
    )
    zoo.add(
        "tuple_input",
        TupleInput(),
        given(pair=(x, x + 1)),
        refused(400, "Tuple[Tensor, Tensor]", pair=x),
        refused(400, "pair", pair=(x,)),
    )
    zoo.add("named_tuple_input", NamedTupleInput(), refused(422, "Point", point=x))
    zoo.add("optional_tuple_input", OptionalTupleInput(), given(x=x), given(x=x, state=(x, -x)))
    zoo.add("optional_list_input", OptionalListInput(), given(x=x), given(x=x, dims=[0]))
    nested = (x, (x + 1, 3, "times"), [x, x * 2], {"times": x, "less": x - 9})
    zoo.add("nested_input", NestedInput(), given(x=nested))
    square = torch.rand(2, 3)
    lists = ListsOfScalars()
    zoo.add("lists_of_scalars", lists, given(x=square, i=[-1, 0], f=[0.5, 3.0], b=[True, False], s=["ü", "", "b"]))
    infinite = [given(x=x, i=0, f=number, b=True) for number in (float("nan"), -float("inf"))]
    zoo.add("infinite_number", Numbers(), *infinite)
    limited = [given(x=x, limit=1.0), given(x=x, limit=1.0, pair=(3, 4.0))]
    zoo.add("defaults_of_parts", DefaultsOfParts(), given(x=x), *limited)
    three = {"more": [-x], "named": {"a": x + 1}, "pair": (x, 0.5)}
    some = [given(x=x, **{name: three[name]}) for name in three]
    zoo.add("optional_parts", OptionalParts(), given(x=x), *some, given(x=x, **three))
    traced = torch.jit.trace(TraceOfParts(), (x, (x, x), {"a": x}), strict=False)
    zoo.add("trace_of_parts", traced, given(x=x, pair=(x, x + 1), named={"a": -x}))
    zoo.add("optional_string", OptionalString(), given(x=x), given(x=x, mode="four"))
    zoo.add("list_of_lists_input", ListOfListsInput(), refused(400, "List[List[Tensor]]", x=[[x]]))
    zoo.add("dict_of_ints_input", DictOfIntsInput(), given(x=x), refused(400, "Dict[str, int]", x=x, sizes={"a": 3}))
    odd = {"input": x, "output": -x, "type": x + 9, "INPUT__0": x + 5}
    zoo.add("odd_names", OddNames(), given(odd))
    zoo.add(
        "positional_names",
        PositionalNames(),
        given({"INPUT__0": x}),
        given({"INPUT__0": x, "INPUT__1": 5}),
        given({"INPUT__0": x, "y": x}),
        given({"INPUT__2": x, "INPUT__1": 5, "INPUT__0": x}),
        refused(400, "twice", INPUT__0=x, x=x),
        refused(400, "INPUT__3", INPUT__0=x, INPUT__3=x),
    )
    zoo.add("changes_its_input", ChangesItsInput(), given(x=x), given(x=-x))
