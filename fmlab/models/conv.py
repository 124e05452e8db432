"""The four-block convolutional network of few-shot learning (Vinyals et al. 2016; Finn et al. 2017 for Omniglot).

A block: 3 x 3 convolution with ``width`` filters, normalisation, ReLU. Each halves the image, by stride 2 (as Finn et
al. do for Omniglot; 28 -> 14 -> 7 -> 4 -> 2) or by 2 x 2 max-pooling (28 -> 14 -> 7 -> 3 -> 1); then one linear layer.

Normalisation. The papers use batch normalisation over the examples at hand, in testing too: an answer then depends on
which other query images are asked at the same time, which tells the classes' balance and helps ("transductive";
Bronskill et al. 2020, 2003.03284, measure how much). A client here is scored on its own examples one by one, so the
default normalises each example by itself: "group" all channels together, "instance" every channel by itself (which
leaves little to say where the image is down to 2 x 2). Accuracies are therefore not the papers'.

``conv`` is an ordinary ``nn.Module``, lifted. A hand-stacked version (one grouped convolution, or patches and bmm) was
measured beside it and is no faster, for the gradient or for exact MAML: see ``benchmarks/fewshot_speed.py``.
"""

from __future__ import annotations

from torch import Tensor, nn

from fmlab.models.lift import Lifted, lift

NORMS = ("instance", "group", "none")


class Head(nn.Linear):
    """A linear layer that starts at zero: no label is preferred before the first step, and after one step from there
    a class's score is the likeness to its support examples."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Images(nn.Module):
    """x (n, size, size) or (n, size, size, channels)... -> (n, channels, size, size)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.channels, self.size = channels, size

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.channels, self.size, self.size)


class Conv4(nn.Sequential):
    """x (n, size, size) or (n, size, size, channels)... -> logits (n, outputs)."""

    def __init__(self, outputs: int, width: int, size: int, channels: int, norm: str, pool: bool) -> None:
        blocks: list[nn.Module] = []
        side, into = size, channels
        for _ in range(4):
            blocks.append(nn.Conv2d(into, width, 3, stride=1 if pool else 2, padding=1))
            if norm != "none":
                blocks.append(nn.GroupNorm(width if norm == "instance" else 1, width))
            blocks.append(nn.ReLU())
            if pool:
                blocks.append(nn.MaxPool2d(2))
            side, into = side // 2 if pool else (side + 1) // 2, width
        super().__init__()
        self.images = Images(channels, size)
        self.features = nn.Sequential(*blocks)
        self.flat = nn.Flatten()
        self.classifier = Head(width * side * side, outputs)


def conv(
    outputs: int, width: int = 64, size: int = 28, channels: int = 1, norm: str = "group", pool: bool = False
) -> Lifted:
    """The network over stacked parameters, for images (R, C, n, size, size) or (R, C, n, channels, size, size).

    outputs, width, channels >= 1; size >= 2, with max-pooling >= 16. Raises ValueError naming the argument.
    """
    least = {"outputs": 1, "width": 1, "size": 16 if pool else 2, "channels": 1}
    for name, value in zip(least, (outputs, width, size, channels), strict=True):
        if not isinstance(value, int) or value < least[name]:
            raise ValueError(f"conv: {name} = {value!r} is not a whole number >= {least[name]}")
    if norm not in NORMS:
        raise ValueError(f"conv: norm = {norm!r} is not one of {NORMS}; each normalises one example by itself")
    return lift(Conv4(outputs, width, size, channels, norm, pool), fresh=True)
