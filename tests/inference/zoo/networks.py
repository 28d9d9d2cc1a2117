"""Layers and networks as users have them: scripted, traced, frozen."""

from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from record import given, refused, throws


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, key_padding_mask: Optional[Tensor] = None) -> Tuple[Tensor, Optional[Tensor]]:
        return self.attention(x, x, x, key_padding_mask=key_padding_mask)


class ScaledAttention(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None, causal: bool = False) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


class Recurrent(nn.Module):
    """nn.LSTM itself has overloads in the place of `forward`."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, 2, batch_first=True)

    def forward(
        self, x: Tensor, state: Optional[Tuple[Tensor, Tensor]] = None
    ) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:
        return self.lstm(x, state)


class Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2)
        self.blocks = nn.ModuleList([Residual(8) for _ in range(3)])
        self.head = nn.Linear(8, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(pictures), 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3))).softmax(1)


class Segmentation(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        low = F.leaky_relu(self.down(x))
        high = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.cat([self.up(low), high], 1)


class Words(nn.Module):
    """A loop that the data end, as decoders have it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.cell = nn.GRUCell(8, 8)
        self.head = nn.Linear(8, 20)

    def forward(self, word: Tensor, length_max: int = 12) -> Tuple[Tensor, int]:
        state = torch.zeros(word.size(0), 8)
        words: List[Tensor] = []
        while len(words) < length_max:
            state = self.cell(self.embedding(word), state)
            word = self.head(state).argmax(-1)
            words.append(word)
            if bool((word == 3).all()):
                break
        return torch.stack(words, 1), len(words)


class Boxes(nn.Module):
    """Removes boxes that overlap better ones."""

    def forward(self, boxes: Tensor, scores: Tensor, limit: float = 0.5) -> Tensor:
        kept: List[int] = []
        order = scores.argsort(descending=True)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        while order.numel() > 0:
            best = int(order[0])
            kept.append(best)
            low = torch.maximum(boxes[best, :2], boxes[order, :2])
            high = torch.minimum(boxes[best, 2:], boxes[order, 2:])
            both = (high - low).clamp(min=0).prod(1)
            order = order[both / (area[best] + area[order] - both) <= limit]
        return torch.tensor(kept, dtype=torch.long)


class Spectrum(nn.Module):
    def forward(self, samples: Tensor) -> Tensor:
        window = torch.hann_window(16)
        z = torch.stft(samples, 16, 8, window=window, return_complex=True)
        return torch.view_as_real(z)


class Algebra(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        square = a @ a.mT + torch.eye(a.size(0), dtype=a.dtype)
        solved = torch.linalg.solve(square, b)
        return solved, torch.linalg.cholesky(square), torch.linalg.svdvals(a), torch.einsum("ij,jk->ik", square, b)


class Sizes(nn.Module):
    """Results whose sizes depend on the data."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        values, indices = x.topk(2)
        return x.nonzero(), x[x > 0.5], values, torch.unique(x)


class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.norm = nn.InstanceNorm3d(2, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(self.norm(self.conv(x)), 2)


class Sound(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 5, dilation=2)
        self.norm = nn.GroupNorm(2, 4)
        self.drop = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(F.silu(self.norm(self.conv(x))))


class Wrapped(nn.Module):
    """With no types at all: everything is a Tensor."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def add_to(zoo):
    x = torch.rand(2, 5, 8)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    zoo.add("transformer_layer", encoder, given(src=x), given(src=x, src_key_padding_mask=padding))
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    zoo.add("transformer", stack, given(src=x))
    zoo.add("attention", Attention(), given(x=x), given(x=x, key_padding_mask=padding))
    q, k, v = torch.rand(3, 1, 2, 5, 8)
    zoo.add("scaled_attention", ScaledAttention(), given(q=q, k=k, v=v), given(q=q, k=k, v=v, causal=True))
    state = (torch.rand(2, 2, 8), torch.rand(2, 2, 8))
    zoo.add("lstm", Recurrent(), given(x=x), given(x=x, state=state), throws("input.size", x=x[:, :, :3]))
    zoo.add("no_forward", nn.GRU(8, 4), refused(422, "forward", input=x))
    words, offsets = torch.tensor([1, 5, 2, 9, 3]), torch.tensor([0, 2])
    bag = nn.EmbeddingBag(16, 4)
    zoo.add(
        "embedding_bag",
        bag,
        given(input=words, offsets=offsets),
        given(input=words.reshape(1, 5)),
        throws("valid range", input=words + 50, offsets=offsets),
    )
    pictures = torch.rand(2, 3, 20, 20)
    zoo.add("pictures", Pictures(), given(pictures=pictures), throws("channels", pictures=pictures[:, :2]))
    frozen = torch.jit.freeze(torch.jit.script(Pictures().eval()))
    zoo.add("pictures_frozen", frozen, given(pictures=pictures))
    traced = torch.jit.trace(Pictures().eval(), pictures)
    zoo.add("pictures_traced", traced, given(pictures=pictures), given({"INPUT__0": pictures[:1]}))
    frozen = torch.jit.freeze(torch.jit.trace(Pictures().eval(), pictures))
    zoo.add("pictures_traced_and_frozen", frozen, given(pictures=pictures))
    zoo.add("segmentation", Segmentation(), given(x=pictures))
    zoo.add("words", Words(), given(word=torch.tensor([1, 2])), given(word=torch.tensor([5]), length_max=3))
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [5, 5, 9, 9], [5, 5, 8, 9], [20, 20, 21, 21]])
    scores = torch.tensor([0.6, 0.9, 0.8, 0.95, 0.1])
    zoo.add("boxes", Boxes(), given(boxes=boxes, scores=scores), given(boxes=boxes, scores=scores, limit=0.9))
    zoo.add("spectrum", Spectrum(), given(samples=torch.rand(2, 64)))
    a, b = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64)
    zoo.add("algebra", Algebra(), given(a=a, b=b))
    zoo.add("sizes", Sizes(), given(x=torch.tensor([0.0, 1.0, 1.0, 0.2])), given(x=torch.zeros(3)))
    zoo.add("volumes", Volumes(), given(x=torch.rand(1, 1, 4, 5, 6)))
    zoo.add("sound", Sound(), given(x=torch.rand(2, 1, 40)))
    zoo.add("wrapped", Wrapped(nn.Sequential(nn.Linear(8, 3), nn.Tanh())), given(x=x))
    pair = torch.jit.trace(lambda a, b: {"sum": a + b, "product": a * b}, (a, a), strict=False)
    zoo.add("traced_function", pair, given(a=a, b=a), refused(400, "missing", a=a))
