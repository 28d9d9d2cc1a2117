"""Models that differ in what they return."""

from typing import Dict, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from record import given, refused


class Pair(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        return x + 1, x - 1


class OneInATuple(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor]:
        return (x + 1,)


class ListOfTensors(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:
        return [x, x[:1], x.sum()]


class EmptyList(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:
        found: List[Tensor] = []
        return found


class DictOfTensors(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return {"logits": x, "größe": x.sum(), "with space": -x, "": x * 2}


class DictOfInts(nn.Module):
    def forward(self, x: Tensor) -> Dict[int, Tensor]:
        return {3: x, -1: -x}


class DictOfFloats(nn.Module):
    def forward(self, x: Tensor) -> Dict[float, Tensor]:
        return {0.5: x}


class Detections(NamedTuple):
    boxes: Tensor
    count: int
    mask: Optional[Tensor]


class Named(nn.Module):
    def forward(self, x: Tensor) -> Detections:
        return Detections(x, x.size(0), None)


class Nested(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Dict[str, List[Tensor]], List[Tuple[Tensor, int]], Tuple[Tuple[Tensor]]]:
        return {"a": [x, -x], "b": [x * 2]}, [(x, 1), (x + 1, 2)], ((x * 3,),)


class NestedDict(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Dict[str, Tensor]]:
        return {"encoder": {"a": x, "b": -x}, "decoder": {"a": x * 2}}


class Numbers(nn.Module):
    def forward(self, x: Tensor) -> Tuple[int, float, bool, List[int], List[float], List[bool]]:
        return x.size(0), 0.1, x.size(0) > 2, [4611686018427387904, -1], [0.5, float("inf")], [True, False]


class OneNumber(nn.Module):
    def forward(self, x: Tensor) -> int:
        return x.dim()


class OneList(nn.Module):
    def forward(self, x: Tensor) -> List[int]:
        return x.size()


class SomeNone(nn.Module):
    def forward(self, x: Tensor, with_mask: bool = False) -> Tuple[Optional[Tensor], Tensor, Optional[Tensor]]:
        mask: Optional[Tensor] = None
        if with_mask:
            mask = x > 0
        return mask, x, None


class Nothing(nn.Module):
    def forward(self, x: Tensor):
        torch.neg(x)


class Strings(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, List[str]]:
        return x, ["cat", "dog"]


class OneString(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "größe " + str(x.size(0))


class TheInput(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        return x, x


class Many(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:
        return [x + i for i in range(500)]


class TooMany(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:
        return [x] * 5000


class TwiceTheSameName(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Dict[str, Tensor]]:
        return {"a": {"b.c": x}, "a.b": {"c": -x}}


class Complex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, -x)


class RealAndImaginary(nn.Module):
    """Views of one complex tensor, the second with a negation that is not done yet."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        z = torch.complex(x, x + 1).conj()
        return z.real, z.imag


class Layouts(nn.Module):
    """Dense numbers whatever the layout."""

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        return {
            "transposed": x.t(),
            "expanded": x[:1].expand(3, -1),
            "strided": x[:, ::2],
            "flipped": x.flip(1),
            "sparse": x.relu().to_sparse(),
            "csr": x.relu().to_sparse_csr(),
            "csc": x.relu().to_sparse_csc(),
            "bsr": x.relu().to_sparse_bsr((2, 2)),
            "channels_last": x.reshape(1, 1, x.size(0), x.size(1)).contiguous(memory_format=torch.channels_last),
            "mkldnn": x.to_mkldnn(),
            "offset": x[1:, 1],
            "overlapping": x.unfold(0, 2, 1),
            "negative": torch._neg_view(x),
        }


class NestedTensor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch._nested_tensor_from_tensor_list([x, x[1:]])


class WithoutMemory(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.empty([3], device=torch.device("meta"))


class HugeSparse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse_coo_tensor(torch.tensor([[0], [1]]), x[:1], [1000000, 1000000])


class HugeExpanded(nn.Module):
    def forward(self, x: Tensor, size: int = 1000000000000) -> Tensor:
        return x[:1].expand([size])


class ManyDimensions(nn.Module):
    def forward(self, x: Tensor, dimensions: int) -> Tensor:
        return x.reshape([1] * (dimensions - 1) + [-1])


class AnyResult(nn.Module):
    def forward(self, x: Tensor) -> Union[int, Tensor]:
        if x.numel() > 2:
            return x.numel()
        return x


class Empty(nn.Module):
    """What is empty has no type at run time."""

    def forward(self, x: Tensor) -> Tuple[str, List[str], Dict[str, Tensor], Tensor]:
        strings: List[str] = []
        tensors: Dict[str, Tensor] = {}
        return "", strings, tensors, x


class ListsOfLists(nn.Module):
    def forward(self, x: Tensor) -> Tuple[List[List[int]], List[Tuple[str, float]], Dict[str, Optional[Tensor]]]:
        return [[1, 2], [3]], [("a", 0.5)], {"none": None, "x": x}


class ComplexNumber(nn.Module):
    def forward(self, x: Tensor) -> complex:
        return complex(1.0, 2.0)


class DeviceResult(nn.Module):
    def forward(self, x: Tensor) -> Tuple[torch.device, Tensor]:
        return x.device, x


def add_to(zoo):
    x = torch.tensor([1.0, -2.0, 3.5])
    for name, model in [
        ("pair", Pair()),
        ("one_in_a_tuple", OneInATuple()),
        ("list_of_tensors", ListOfTensors()),
        ("empty_list", EmptyList()),
        ("dict_of_ints", DictOfInts()),
        ("named_tuple", Named()),
        ("nested", Nested()),
        ("nested_dict", NestedDict()),
        ("result_numbers", Numbers()),
        ("one_number", OneNumber()),
        ("one_list", OneList()),
        ("nothing", Nothing()),
        ("strings", Strings()),
        ("one_string", OneString()),
        ("any_result", AnyResult()),
        ("empty_results", Empty()),
        ("lists_of_lists", ListsOfLists()),
        ("the_input_twice", TheInput()),
        ("real_and_imaginary", RealAndImaginary()),
    ]:
        zoo.add(name, model, given(x=x), given(x=torch.zeros(0)))
    zoo.add("dict_of_tensors", DictOfTensors(), given(x=x))
    zoo.add("many_outputs", Many(), given(x=x))
    zoo.add("some_none", SomeNone(), given(x=x), given(x=x, with_mask=True))
    zoo.add("layouts", Layouts(), given(x=torch.rand(4, 6) - 0.5))
    zoo.add("dict_of_floats", DictOfFloats(), refused(422, "keys", x=x))
    zoo.add("too_many_outputs", TooMany(), refused(422, "4096", x=x))
    zoo.add("twice_the_same_name", TwiceTheSameName(), refused(422, "`a.b.c`", x=x))
    zoo.add("complex_result", Complex(), refused(422, "Complex", x=x))
    zoo.add("complex_number", ComplexNumber(), refused(422, "output", x=x))
    zoo.add("device_result", DeviceResult(), refused(422, "output_0", x=x))
    zoo.add("nested_tensor", NestedTensor(), refused(422, "NestedTensor", x=x), refused(422, "NestedTensor", x=x))
    zoo.add("without_memory", WithoutMemory(), refused(422, "meta tensor", x=x))
    zoo.add("huge_sparse", HugeSparse(), refused(422, "larger", x=x))
    zoo.add("huge_expanded", HugeExpanded(), refused(422, "larger", x=x), refused(422, "larger", x=x, size=2**62))
    zoo.add("many_dimensions", ManyDimensions(), given(x=x, dimensions=20), given(x=x, dimensions=63))
