"""Any ``nn.Module`` without cross-example state as a model over stacked parameters, by ``torch.func``."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

_MIXES = (nn.modules.batchnorm._BatchNorm,)
_DRAWS = (nn.modules.dropout._DropoutNd,)
_ONE_BY_ONE = (nn.RNNBase, nn.RNNCellBase)  # vmap has no rule for torch's recurrences
_FAST = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


@dataclass(frozen=True, eq=False)
class Lifted:
    """Made by ``lift``: the module's trained parameters flattened in their own order into w (R, C, P)."""

    module: nn.Module  # never called
    shapes: dict[str, torch.Size] = field(repr=False)
    start: Tensor = field(repr=False)  # (P,) the module's own parameters
    head_name: str | None = None
    fresh: bool = False
    _idle: list[nn.Module] = field(default_factory=list, repr=False)  # copies to call, each by one thread at a time

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
        """float64 (P,): the module's own parameters; of a ``fresh`` one every layer's ``reset_parameters`` under the
        generator's own seed, drawn in float32 (its own values where it has none)."""
        own = self.start.detach().to("cpu", torch.float64)
        if not self.fresh:
            return own
        module = copy.deepcopy(self.module).to("cpu", torch.float32)
        before = flat(module, self.shapes).clone()
        with torch.no_grad(), Seeded(generator.initial_seed()):
            for m in module.modules():
                if callable(getattr(m, "reset_parameters", None)):
                    m.reset_parameters()  # type: ignore[operator]
        after = flat(module, self.shapes)
        return torch.where(after == before, own, after.to(torch.float64))

    def __call__(self, w: Tensor, x: Tensor) -> Tensor:
        """w (R, C, P), x (R, C, n, ...) -> (R, C, n, o)."""
        try:  # functional_call changes the module while it runs, so no two threads may call the same
            module = self._idle.pop()
        except IndexError:
            module = callable_copy(self.module)
        constants = {
            k: t.to(w.device, w.dtype if t.is_floating_point() else t.dtype)
            for k, t in (*module.named_parameters(), *module.named_buffers())
            if k not in self.shapes
        }

        def one(flat: Tensor, examples: Tensor) -> Tensor:
            parts = flat.split([s.numel() for s in self.shapes.values()])
            values = {k: v.view(s) for (k, s), v in zip(self.shapes.items(), parts, strict=True)}
            return functional_call(module, values | constants, (examples,))  # type: ignore[no-any-return]

        out: Tensor
        w = w.expand(*x.shape[:2], -1)
        if any(isinstance(m, _ONE_BY_ONE) for m in module.modules()):
            rows = [one(v, e) for v, e in zip(w.flatten(0, 1), x.flatten(0, 1), strict=True)]
            out = torch.stack(rows).unflatten(0, w.shape[:2])
        else:
            out = vmap(vmap(one))(w, x)
        self._idle.append(module)
        return out


class Seeded(TorchDispatchMode):
    """Whatever is drawn inside, by this thread, without a generator of its own is drawn from ``seed``: the numbers that
    ``torch.manual_seed(seed)`` would give, while torch's own generator stays where it is."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
            kwargs = kwargs | {"generator": self.generator}
            func = _with_generator(func)
        return func(*args, **kwargs)


def _with_generator(func: Any) -> Any:
    """The function itself, or its overload that takes the same and a generator."""
    names = {a.name for a in func._schema.arguments} | {"generator"}
    if len(names) == len(func._schema.arguments):
        return func
    for overload in func.overloadpacket.overloads():
        found = getattr(func.overloadpacket, overload)
        if {a.name for a in found._schema.arguments} == names:
            return found
    raise ValueError(f"{func} draws at random and takes no generator; leave it out of reset_parameters")


class Attention(nn.MultiheadAttention):
    """By its formula, which has a second derivative; torch's fused kernels have none."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
        names = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")
        options |= dict(zip(names, args, strict=False))
        wanted = options.pop("need_weights", True)
        out, weights = super().forward(query, key, value, need_weights=True, **options)
        return out, weights if wanted else None


def callable_copy(module: nn.Module) -> nn.Module:
    """A copy whose attention is ``Attention``, without torch's short cuts for evaluation."""
    module = copy.deepcopy(module)
    for m in module.modules():
        if type(m) is nn.MultiheadAttention:
            m.__class__ = Attention
            m.dropout = m.dropout if m.training else 0.0
        if isinstance(m, _FAST):
            m.training = True  # of itself only: its dropout layers stay as they are
    return module


def flat(module: nn.Module, shapes: dict[str, torch.Size]) -> Tensor:
    """The parameters of these names in one vector (P,)."""
    named = dict(module.named_parameters())
    return torch.cat([named[k].detach().flatten() for k in shapes])


def lift(module: nn.Module, head: str | None = None, fresh: bool = False) -> Lifted:
    """A model from ``module``; the module itself is copied and never changed.

    head: the name of the submodule that is the head (its last layer); None takes the one whose parameters come last.
    fresh: False starts every seed from the module's own parameters, as they are now (pretrained ones, for example);
    True gives every seed a start of its own, by the layers' ``reset_parameters``.

    Parameters with ``requires_grad=False`` are no part of the model: they stay as they are and are never sent.
    Recurrent layers (RNN, LSTM, GRU) are computed client by client, which takes longer.

    Raises TypeError for what is no module, ValueError for a layer that mixes examples or keeps a running state
    (BatchNorm in training mode), for dropout in training mode, for a module without parameters to train, and for a
    head that is not there, each with what to use.
    """
    if not isinstance(module, nn.Module):
        hint = "; make one: lift(Net())" if isinstance(module, type) else ""
        raise TypeError(f"lift: {module!r} is not an nn.Module{hint}")
    for name, m in module.named_modules():
        where = f"{name or 'the module'} ({type(m).__name__})"
        running = getattr(m, "running_mean", None) is not None
        if isinstance(m, _MIXES) and (m.training or not running):
            raise ValueError(
                f"{where} mixes the examples of a batch, so one client's loss would depend on its batch; "
                "use nn.GroupNorm(1, channels) or nn.InstanceNorm2d, or call .eval() to freeze its statistics"
            )
        if _drops(m):
            raise ValueError(f"{where} draws at random in training mode; call .eval() or leave it out")
        if isinstance(m, nn.modules.instancenorm._InstanceNorm) and m.training and m.track_running_stats:
            raise ValueError(f"{where} keeps running statistics; make it with track_running_stats=False")
    module = copy.deepcopy(module)
    shapes = {k: p.shape for k, p in module.named_parameters() if p.requires_grad}
    if not shapes:
        raise ValueError(
            "the module has no parameters to train; lift a module with at least one nn.Parameter that is not frozen"
        )
    if head is not None and not any(key == head or key.startswith(f"{head}.") for key in shapes):
        layers = sorted({key.rpartition(".")[0] for key in shapes} - {""})
        raise ValueError(f"head = {head!r} names no submodule with parameters; give one of {layers}")
    return Lifted(module, shapes, flat(module, shapes), head, fresh)


def _drops(m: nn.Module) -> bool:
    """Whether m draws at random: a layer of its own, within attention, or between recurrent layers."""
    share = m.p if isinstance(m, _DRAWS) else getattr(m, "dropout", 0.0)
    inside = isinstance(m, (*_DRAWS, nn.MultiheadAttention)) or (isinstance(m, nn.RNNBase) and m.num_layers > 1)
    return m.training and inside and share > 0
