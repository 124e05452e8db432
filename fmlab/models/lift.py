"""Any ``nn.Module`` without cross-example state as a model over stacked parameters, by ``torch.func``."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

_MIXES = (nn.modules.batchnorm._BatchNorm,)
_DRAWS = (nn.modules.dropout._DropoutNd,)


@dataclass(frozen=True, eq=False)
class Lifted:
    """Made by ``lift``: the module's parameters flattened in their own order into w (R, C, P)."""

    module: nn.Module
    shapes: dict[str, torch.Size] = field(repr=False)
    start: Tensor = field(repr=False)  # (P,) the module's own parameters
    unused: nn.Module = field(repr=False)  # a copy never called: functional_call leaves traces where layers are shared
    head_name: str | None = None

    @property
    def size(self) -> int:
        return self.start.numel()

    @property
    def head(self) -> Tensor:
        """bool (P,): the parameters of the head. Raises ValueError where no other layer has any."""
        name = self.head_name
        if name is None:
            name = list(self.shapes)[-1].rpartition(".")[0]
        mine = [key == name or key.startswith(f"{name}.") for key in self.shapes]
        if not name or all(mine):
            raise ValueError("the lifted module has one layer, so nothing stands before its head; give it a body too")
        return torch.cat([torch.full((s.numel(),), on) for s, on in zip(self.shapes.values(), mine, strict=True)])

    def init(self, generator: torch.Generator) -> Tensor:
        """float64 (P,): every layer's ``reset_parameters`` under the generator's own seed (the module's values where
        it has none)."""
        fresh = copy.deepcopy(self.unused)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            for m in fresh.modules():
                if callable(getattr(m, "reset_parameters", None)):
                    m.reset_parameters()  # type: ignore[operator]
        return torch.cat([p.detach().flatten() for p in fresh.parameters()]).to(torch.float64)

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """w (R, C, P), x (R, C, n, ...) -> (R, C, n, o)."""
        buffers = dict(self.module.named_buffers())
        constants = {k: b.to(w.device, w.dtype if b.is_floating_point() else b.dtype) for k, b in buffers.items()}

        def one(flat: Tensor, examples: Tensor) -> Tensor:
            parts = flat.split([s.numel() for s in self.shapes.values()])
            values = {k: v.view(s) for (k, s), v in zip(self.shapes.items(), parts, strict=True)}
            values |= constants
            out: Tensor = functional_call(self.module, values, (examples,))
            return out

        return vmap(vmap(one))(w.expand(*x.shape[:2], -1), x)


def lift(module: nn.Module, head: str | None = None) -> Lifted:
    """A model from ``module``; the module itself is copied and never changed.

    head: the name of the submodule that is the head (its last layer); None takes the one whose parameters come last.
    Raises ValueError for a layer that mixes examples or keeps a running state (BatchNorm in training mode), for
    dropout in training mode, for a module without parameters, and for a head that is not there, each with what to use.
    """
    for name, m in module.named_modules():
        where = f"{name or 'the module'} ({type(m).__name__})"
        running = getattr(m, "running_mean", None) is not None
        if isinstance(m, _MIXES) and (m.training or not running):
            raise ValueError(
                f"{where} mixes the examples of a batch, so one client's loss would depend on its batch; "
                "use nn.GroupNorm(1, channels) or nn.InstanceNorm2d, or call .eval() to freeze its statistics"
            )
        if isinstance(m, _DRAWS) and m.training and m.p > 0:
            raise ValueError(f"{where} draws at random in training mode; call .eval() or leave it out")
        if isinstance(m, nn.modules.instancenorm._InstanceNorm) and m.training and m.track_running_stats:
            raise ValueError(f"{where} keeps running statistics; make it with track_running_stats=False")
    module = copy.deepcopy(module)
    named = dict(module.named_parameters())
    if not named:
        raise ValueError("the module has no parameters to train; lift a module with at least one nn.Parameter")
    if head is not None and not any(key == head or key.startswith(f"{head}.") for key in named):
        layers = sorted({key.rpartition(".")[0] for key in named} - {""})
        raise ValueError(f"head = {head!r} names no submodule with parameters; give one of {layers}")
    start = torch.cat([p.detach().flatten() for p in named.values()])
    return Lifted(module, {k: p.shape for k, p in named.items()}, start, copy.deepcopy(module), head)
