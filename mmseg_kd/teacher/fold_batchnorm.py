"""BatchNorm of a frozen network folded into the convolution before it.

In eval mode BatchNorm is one affine map per channel, and so is what it does to the output of a
convolution: w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# One forward pass on a probe image: the outputs that must stay as they are, by name.
Run = Callable[[], Mapping[str, Tensor]]

# A difference of norms, relative to the norm, in units of the precision of the tensors: many
# layers of rounding stay far below, a wrong fold far above.
ROUNDING = 1e3

# Subclasses may compute what they like, so these alone; timm's, with an activation inside, by its
# name: a network of other packages is no reason to import timm.
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_NORM_ACT = 'timm.layers.norm_act.BatchNormAct2d'


@dataclass(frozen=True)
class Folding:
    """What became of the BatchNorm layers that follow a convolution.

    Attributes:
        folded: Their names.
        kept: Names of those whose folding would have changed an output, and was undone.
    """

    folded: list[str]
    kept: list[str]


def fold_batchnorm(network: nn.Module, run: Run) -> Folding:
    """Fold each BatchNorm of `network` into the convolution before it where nothing else changes.

    A dry run tells: the convolution and the BatchNorm ran once, no operation outside the
    BatchNorm read what the convolution put out, and it is none of the outputs that `run` returns.
    Weights must be frozen and shared with nothing. Then the outputs of the folded network are
    compared, and where they differ by more than rounding, as with a convolution that standardises
    its weights, the folds that are to blame are undone.

    A folded BatchNorm leaves an `nn.Identity` under its name, which gives what it gave; one with
    an activation inside (timm) leaves the activation.

    Args:
        network: In eval mode.
        run: Runs `network` once.
    """
    with torch.no_grad():
        pairs, expected = _find_pairs(network, run)
        kept = _fold_sound(pairs, lambda: _gives(run, expected)) if pairs else []
    names = [pair.name for pair in pairs]
    return Folding([n for n in names if n not in kept], [n for n in names if n in kept])


class _Pair:
    """A convolution and the BatchNorm behind it.

    Args:
        network: Holds both.
        conv: The convolution.
        name: The name of the BatchNorm.
    """

    def __init__(self, network: nn.Module, conv: nn.Conv2d, name: str) -> None:
        parent, _, self._child = name.rpartition('.')
        self.name = name
        self._parent = network.get_submodule(parent)
        self._conv = conv
        self._norm: Any = network.get_submodule(name)
        self._weights = conv.weight, conv.bias

    def fold(self) -> None:
        weight, bias = self._weights
        norm = self._norm
        folded = fuse_conv_bn_weights(
            weight.double(),
            None if bias is None else bias.double(),
            norm.running_mean.double(),
            norm.running_var.double(),
            norm.eps,
            None if norm.weight is None else norm.weight.double(),
            None if norm.bias is None else norm.bias.double(),
        )
        self._conv.weight, self._conv.bias = (
            nn.Parameter(p.to(weight.dtype), requires_grad=False) for p in folded
        )
        setattr(self._parent, self._child, _remains_of(norm).eval())

    def undo(self) -> None:
        self._conv.weight, self._conv.bias = self._weights
        setattr(self._parent, self._child, self._norm)


def _has_activation(norm: nn.Module) -> bool:
    return f'{type(norm).__module__}.{type(norm).__qualname__}' == _NORM_ACT


def _remains_of(norm: nn.Module) -> nn.Module:
    """What of a BatchNorm is no affine map."""
    if not _has_activation(norm):
        return nn.Identity()
    remains = nn.Sequential()
    for name in ('drop', 'act'):  # under their names, which may be tapped
        remains.add_module(name, norm.get_submodule(name))
    return remains


def _fold_sound(pairs: Sequence[_Pair], is_sound: Callable[[], bool]) -> list[str]:
    """Fold all of `pairs` but those that make the network unsound; returns the names of these."""
    for pair in pairs:
        pair.fold()
    if is_sound():
        return []
    for pair in pairs:
        pair.undo()
    if len(pairs) == 1:
        return [pairs[0].name]
    half = len(pairs) // 2
    return _fold_sound(pairs[:half], is_sound) + _fold_sound(pairs[half:], is_sound)


def _gives(run: Run, expected: Mapping[str, Tensor]) -> bool:
    """Whether a run gives `expected`, to rounding."""
    try:
        found = run()
    except Exception:  # a network may read its BatchNorm layers, which are not there
        return False
    return found.keys() == expected.keys() and all(
        _is_close(found[name], tensor) for name, tensor in expected.items()
    )


def _is_close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not expected.is_floating_point():
        return torch.equal(found, expected)
    tolerance = ROUNDING * torch.finfo(expected.dtype).eps
    found, expected = found.double(), expected.double()
    return bool((found - expected).norm() <= tolerance * expected.norm())


def _find_pairs(network: nn.Module, run: Run) -> tuple[list[_Pair], Mapping[str, Tensor]]:
    """The pairs that can be folded, in the order in which they run, and what the run gave."""
    names = _single_names(network)
    owners = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    frozen = {
        module: name
        for module, name in names.items()
        if all(not p.requires_grad and owners[id(p)] == 1 for p in module.parameters(recurse=False))
        and not module._forward_hooks
        and not module._forward_pre_hooks
    }
    convs = [m for m in frozen if isinstance(m, nn.Conv2d) and 'weight' in m._parameters]
    norms = [m for m in frozen if (type(m) in _NORMS or _has_activation(m)) and _is_affine(m)]
    watch = _Watch()
    with watch.on(convs, norms), watch:
        outputs = run()
    tapped = {id(output) for output in outputs.values()}
    pairs = [
        _Pair(network, conv, frozen[norm])
        for conv, norm in watch.pairs()
        if id(watch.made[conv]) not in tapped
    ]
    return pairs, outputs


def _single_names(network: nn.Module) -> dict[nn.Module, str]:
    """The modules that have one name only, with it."""
    named = list(network.named_modules(remove_duplicate=False))
    counts = Counter(module for _, module in named)
    return {module: name for name, module in named if name and counts[module] == 1}


def _is_affine(norm: Any) -> bool:
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


class _Watch(TorchDispatchMode):
    """Sees which operations read what convolutions put out.

    Attributes:
        made: What each convolution put out last.
    """

    def __init__(self) -> None:
        super().__init__()
        # Held while the watch lasts, so that no other tensor gets the id of one of these.
        self.made: dict[nn.Module, Tensor] = {}
        self._makers: dict[int, nn.Conv2d] = {}
        self._readers: dict[nn.Module, set[nn.Module | None]] = {}
        self._calls: Counter[nn.Module] = Counter()
        self._running: nn.Module | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            maker = self._makers.get(id(leaf))
            if maker is not None:
                self._readers[maker].add(self._running)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def on(self, convs: Sequence[nn.Conv2d], norms: Sequence[nn.Module]) -> Iterator[None]:
        """Look at these modules inside the context."""
        with ExitStack() as hooks:
            for conv in convs:
                hooks.enter_context(conv.register_forward_hook(self._note_output))
            for norm in norms:
                hooks.enter_context(norm.register_forward_pre_hook(self._enter))
                hooks.enter_context(norm.register_forward_hook(self._leave))
            yield

    def _note_output(self, conv: nn.Conv2d, args: Any, output: Tensor) -> None:
        self._calls[conv] += 1
        self.made[conv] = output
        self._makers[id(output)] = conv
        self._readers[conv] = set()

    def _enter(self, norm: nn.Module, args: Any) -> None:
        self._calls[norm] += 1
        self._running = norm

    def _leave(self, norm: nn.Module, args: Any, output: Any) -> None:
        self._running = None

    def pairs(self) -> Iterator[tuple[nn.Conv2d, nn.Module]]:
        """Convolutions that ran once, each with the norm, which ran once, that alone read it."""
        for maker in self._makers.values():
            readers = self._readers[maker]
            if len(readers) == 1 and self._calls[maker] == 1:
                (norm,) = readers
                if norm is not None and self._calls[norm] == 1:
                    yield maker, norm
