"""Ways to save a model, and code that the printer of PyTorch writes in an uncommon way."""

from typing import Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn

from record import given, refused, without


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@torch.jit.script
def function(x: Tensor, y: Optional[Tensor] = None, k: int = 2) -> Dict[str, Tensor]:
    return {"z": x * k if y is None else x + y}


def same_name(default):
    class Same(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, times: int = 2) -> Tensor:
            return self.inner(x) * times

    Same.forward.__defaults__ = (default,)
    return Same


class LongSignature(nn.Module):
    """The printer breaks its lines."""

    def forward(
        self,
        the_first_argument_with_a_long_name: Tensor,
        the_second_argument_with_a_long_name: Optional[Tuple[Tensor, Dict[str, List[Optional[Tensor]]]]] = None,
        the_third_argument_with_a_long_name: str = "a), b: (c=[",
        the_fourth_argument_with_a_long_name: Optional[float] = -0.25,
    ) -> Tuple[Tensor, Dict[str, List[Tuple[Tensor, int]]]]:
        x = the_first_argument_with_a_long_name
        if the_fourth_argument_with_a_long_name is not None:
            x = x * the_fourth_argument_with_a_long_name
        return x, {"z": [(x, 1)]}


class Methods(nn.Module):
    """Other methods, one of which begins as forward does."""

    @torch.jit.export
    def forward_once(self, x: Tensor, unused: int) -> Tensor:
        return x + 100

    @torch.jit.export
    def encode(self, words: List[str]) -> int:
        return len(words)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_once(x, 5) + 1


def add_to(zoo):
    x = torch.rand(2, 3)
    extra = {"labels.txt": "cat\ndog", "folder/more.json": "{}"}
    zoo.add("extra_files", Linear(), given(x=x), _extra_files=extra)
    # Its defaults are not saved.
    zoo.add("function", function, given(x=x, y=x, k=5), without(["y"], x=x, k=5), refused(400, "missing", x=x))
    # Classes of one name in one file: PyTorch adds numbers to their names.
    inner, outer = same_name(2), same_name(3)
    zoo.add("same_names", outer(inner(nn.Identity())), given(x=x), given(x=x, times=4))
    long = "the_first_argument_with_a_long_name"
    fourth = "the_fourth_argument_with_a_long_name"
    zoo.add("long_signature", LongSignature(), given({long: x}), given({long: x, fourth: 2.0}))
    zoo.add("methods", Methods(), given(x=x))
    quantised = torch.jit.optimize_for_inference(torch.jit.script(Linear().eval()))
    zoo.add("optimised", quantised, given(x=x))
    zoo.add("moved", torch.jit.script(Linear().eval()).to(torch.float64), given(x=x.double()))
