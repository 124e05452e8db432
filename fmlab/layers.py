"""A model as a chain of layers whose hidden units may change places, and grow in number.

Between two layers stand only functions that treat every unit alike and alone, and map 0 to 0. So the units of a hidden
layer can be put in any order, and one whose weights, bias and outgoing weights are all 0 is inert: it adds nothing and
no gradient reaches it. The units of a convolution are its output channels; after ``Flatten`` a channel is a block of
the next layer's inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fmlab.data import Tree
from fmlab.models import MLP, Lifted, Model, lift

ZERO_TO_ZERO = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Softsign, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
WAY_OUT = (
    "give fm.MLP, fmlab.models.conv(..., norm='none'), or fm.lift of an nn.Sequential of nn.Linear, nn.Conv2d without "
    "groups, nn.Flatten(), pooling and activations with value 0 at 0 (ReLU, Tanh, GELU, ...), without normalisation"
)


@dataclass(frozen=True, eq=False)
class Layer:
    """Where a layer's parameters stand in its part of w, (..., S) for S of them.

    rows: int64 (o, D), unit by unit; for each of the input units its k weights, then the bias where there is one.
    """

    rows: Tensor
    inputs: int
    k: int  # 1, a kernel's size, or the positions of a flattened channel

    @property
    def size(self) -> int:
        return self.rows.numel()

    def units(self, part: Tensor) -> Tensor:
        """(..., S) -> (..., o, D)."""
        return part[..., self.rows]

    def flat(self, units: Tensor) -> Tensor:
        """The inverse of ``units``."""
        return units.flatten(-2)[..., self.rows.flatten().argsort()]

    def rewire(self, part: Tensor, order: Tensor) -> Tensor:
        """The layer (..., S) whose input s is input order[s] of this one; order int64 (..., inputs)."""
        weights, bias = self.units(part).tensor_split([self.inputs * self.k], -1)
        weights = weights.unflatten(-1, (self.inputs, self.k))
        moved = weights.gather(-2, order[..., None, :, None].expand_as(weights))
        return self.flat(torch.cat([moved.flatten(-2), bias], -1))


@dataclass(frozen=True, eq=False)
class Chain:
    """The layers in order; w (..., P) is their parts one after another."""

    layers: tuple[Layer, ...]

    @property
    def names(self) -> list[str]:
        return [f"layer {n}" for n in range(len(self.layers))]

    @property
    def hidden(self) -> list[int]:
        """How many units each hidden layer has."""
        return [len(layer.rows) for layer in self.layers[:-1]]

    def split(self, w: Tensor) -> Tree:
        return dict(zip(self.names, w.split([layer.size for layer in self.layers], -1), strict=True))

    def join(self, parts: Tree) -> Tensor:
        return torch.cat([parts[name] for name in self.names], -1)

    def above(self, n: int, like: Tensor) -> float | Tensor:
        """(P,) one for the parameters of layers n, n + 1, ..., else 0; 1.0 where that is all of them."""
        masks = [like.new_full((layer.size,), float(m >= n)) for m, layer in enumerate(self.layers)]
        return torch.cat(masks) if n > 0 else 1.0

    def place(self, small: Chain, w: Tensor) -> Tensor:
        """Models w (..., P') of the same chain with fewer hidden units as models (..., P) of this one, to the same
        predictions: the further units are inert."""
        parts = small.split(w)
        for name, less, more in zip(self.names, small.layers, self.layers, strict=True):
            units = less.units(parts[name])
            weights, bias = units.tensor_split([less.inputs * less.k], -1)
            wide = w.new_zeros(*w.shape[:-1], *more.rows.shape)
            wide[..., : len(less.rows), : less.inputs * less.k] = weights
            wide[..., : len(less.rows), more.inputs * more.k :] = bias
            parts[name] = more.flat(wide)
        return self.join(parts)


def chain(model: Model) -> Chain:
    """The model's layers. Raises ValueError, naming the layer and the way out, where it is not such a chain or has no
    hidden layer."""
    if isinstance(model, MLP):
        layers = [Layer(torch.arange((d + 1) * o).view(d + 1, o).T.contiguous(), d, 1) for d, o in model.layers]
    elif isinstance(model, Lifted):
        layers = list(_lifted(model))
    else:
        raise ValueError(f"{model!r} is not a chain of layers; {WAY_OUT}")
    if len(layers) < 2:
        raise ValueError(
            f"{model!r} has no hidden layer, so it has no units to match; give a model that has one, for example "
            "fm.MLP((inputs, 20, outputs))"
        )
    return Chain(tuple(layers))


def resize(model: Model, hidden: Sequence[int]) -> Model:
    """The same chain with other numbers of hidden units. A lifted module's own parameters become 0."""
    if isinstance(model, MLP):
        return MLP((model.sizes[0], *hidden, model.sizes[-1]))
    module, before, now = copy.deepcopy(model.module), 1, 1
    weighted = [m for _, m in _leaves(module) if isinstance(m, (nn.Linear, nn.Conv2d))]
    for m, wanted in zip(weighted, [*hidden, len(weighted[-1].weight)], strict=True):
        into, units = m.weight.shape[1] // before * now, len(m.weight)
        m.weight = nn.Parameter(m.weight.new_zeros(wanted, into, *m.weight.shape[2:]))
        if m.bias is not None:
            m.bias = nn.Parameter(m.bias.new_zeros(wanted))
        if isinstance(m, nn.Linear):
            m.in_features, m.out_features = into, wanted
        else:
            m.in_channels, m.out_channels = into, wanted
        before, now = units, wanted
    return lift(module, model.head_name)


def grown(units: int, growth: float) -> int:
    """The width of a layer that may grow to ``growth`` >= 1 times its units."""
    return int(units * growth)


def shrunk(width: int, growth: float) -> int:
    """The inverse of ``grown``, which rises with every unit."""
    return next(units for units in range(1, width + 1) if grown(units, growth) == width)


def _leaves(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of nested ``nn.Sequential``s, in the order in which they are called."""
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        for key, child in zip(module._modules, module, strict=True):  # named_children leaves out what comes twice
            yield from _leaves(child, f"{name}.{key}" if name else key)
    else:
        yield name, module


def _lifted(model: Lifted) -> Iterator[Layer]:
    last: nn.Linear | nn.Conv2d | None = None
    between: list[tuple[str, nn.Module]] = []
    found = 0
    for name, m in _leaves(model.module):
        where = f"{name or 'the module'} ({type(m).__name__})"
        if not all(p.requires_grad for p in m.parameters()):
            raise ValueError(f"{where} has frozen parameters, which tie its units to places; {WAY_OUT}")
        if not isinstance(m, (nn.Linear, nn.Conv2d)):
            if next(m.parameters(), None) is not None:
                raise ValueError(f"{where} is no layer whose units can be matched; {WAY_OUT}")
            between.append((where, m))
            continue
        if isinstance(m, nn.Conv2d) and m.groups != 1:
            raise ValueError(f"{where} has groups = {m.groups}, which tie its units to places; {WAY_OUT}")
        units, inputs = m.weight.shape[:2]
        if last is not None:
            inputs = _joined(last, between, m, where)
        k, bias = m.weight[0].numel() // inputs, m.bias is not None
        places = torch.arange(m.weight.numel()).view(units, -1)
        if bias:
            places = torch.cat([places, m.weight.numel() + torch.arange(units)[:, None]], 1)
        found += places.numel()
        last, between = m, []
        yield Layer(places, inputs, k)
    if found != model.size:
        raise ValueError(f"{model!r} uses a layer or its weights twice, so its units cannot be matched; {WAY_OUT}")


def _joined(last: nn.Module, between: list[tuple[str, nn.Module]], m: nn.Module, where: str) -> int:
    """How many units the layer before gives to m."""
    for name, other in between:
        whole = not isinstance(other, nn.Flatten) or (other.start_dim, other.end_dim) == (1, -1)
        if not isinstance(other, ZERO_TO_ZERO) or not whole:
            raise ValueError(f"{name} stands between two layers and may mix or shift units; {WAY_OUT}")
    units, inputs = len(last.weight), m.weight.shape[1]  # type: ignore[arg-type, index]
    flattened = any(isinstance(other, nn.Flatten) for _, other in between)
    fits = inputs == units
    if isinstance(last, nn.Conv2d) and isinstance(m, nn.Linear):
        fits = flattened and inputs % units == 0
    elif isinstance(last, nn.Linear) is not isinstance(m, nn.Linear):
        fits = False
    if not fits:
        raise ValueError(f"{where} does not take the units of the layer before it one by one; {WAY_OUT}")
    return units
