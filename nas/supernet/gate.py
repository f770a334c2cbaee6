"""Gates: elements of a module's input, each kept or dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.io.rng import untouched_rng
from nas.supernet.base import ChoiceModule, Condition, Cost, check_choice, context_of
from nas.supernet.candidates import Select
from nas.supernet.modules import copied

DROP, KEEP = "drop", "keep"
LABELS = (DROP, KEEP)

Factory = Callable[[int], nn.Module]


class Gate(ChoiceModule):
    """Multiplies n elements of its input (features, channels) by n relaxed two-way samples, and passes the product to a module.

    Made by :func:`nas.gate`. Each element is a choice, ``<name>.<element>``, with the labels ``drop`` and ``keep``. At least one element is
    kept. The derived form is a plain slice and a smaller module.
    """

    is_one_part = cuts = True

    def __init__(
        self, name: str, factory: Factory, elements: Sequence[str], *, dim: int = 1, shared: bool = False
    ) -> None:
        super().__init__()
        self.name = name
        self.names = gate_names(name, elements)
        self._rows: dict[str, tuple[str, ...]] = dict.fromkeys(self.names, LABELS)
        self.factory = factory
        self.dim = dim
        self.shared = shared
        self.module = factory(len(elements))
        if any(isinstance(inner, ChoiceModule) for inner in self.module.modules()):
            raise ValueError(f"gate {name!r}: its module must not hold choices; put choices after the gate")

    def extra_repr(self) -> str:
        return f"name={self.name!r}, num_elements={len(self.names)}, dim={self.dim}"

    def rows(self) -> dict[str, tuple[str, ...]]:
        return self._rows

    def branches(self, made: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any], list[nn.Module]]]:
        decided = [made[name] for name in self.names if name in made]
        number = 2 ** (len(self.names) - len(decided))
        yield (
            (number if KEEP in decided else number - 1),
            {name: KEEP for name in self.names if name not in made},
            [self.module],
        )

    def parts(self) -> Iterator[tuple[Condition, nn.Module]]:
        yield {}, self.module

    def first(self, name: str) -> str:
        return KEEP

    def at_least_one(self) -> list[tuple[str, str]]:
        return [(name, KEEP) for name in self.names]

    def cost_terms(self, cost: Cost, args: tuple[Any, ...], *, exact: bool) -> Iterator[tuple[Condition, float]]:
        """A fixed term, and a term for each element; raises ValueError if the cost is not linear in the number of elements."""
        number = len(self.names)

        def of(num_kept: int) -> float:
            with untouched_rng():
                module = self.factory(num_kept)
            return cost(module, (args[0].narrow(self.dim, 0, num_kept), *args[1:]) if args else ())

        if number == 1:
            yield {}, of(1)
            return
        first, last = of(1), of(number)
        slope = (last - first) / (number - 1)
        if not exact:
            slope = max(0.0, slope)  # a negative slope is noise, which many elements would amplify
        elif abs(of(2) - first - slope) > 1e-6 * abs(last):
            raise ValueError(
                f"gate {self.name!r}: its cost is not linear in the number of elements kept, so it cannot be tabulated"
            )
        yield {}, first - slope
        for name in self.names:
            yield {name: frozenset({KEEP})}, slope

    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        kept = kept_elements(self.name, [choices[name] for name in self.names])
        if len(kept) == len(self.names):
            module: nn.Module = copied(self.module, copies)
        else:
            with untouched_rng():
                module = self.factory(len(kept))
            _inherit(self.name, module, self.module, kept, len(self.names))
        return plain(module, kept, len(self.names), self.dim)

    def forward(self, x: Tensor) -> Any:
        """Gates `x` and calls the module.

        Shape:
            - x: (B, ...), n elements along `dim`
        """
        context = context_of(self.names[0])
        first = context.rows[self.names[0]]
        rows = [context.rows[name] for name in self.names]
        together = rows == list(range(first, first + len(rows)))
        weights = context.op_weights[first : first + len(rows)] if together else context.op_weights[rows]
        dim = self.dim % x.dim()
        if x.shape[dim] != len(rows):
            raise ValueError(
                f"gate {self.name!r}: the input has {x.shape[dim]} elements in dimension {self.dim}, expected {len(rows)}"
            )
        keep = weights[..., 1].to(x.dtype)
        shape = [1] * x.dim()
        shape[dim] = len(rows)
        if keep.dim() == 2:  # per sample: (n, B)
            keep = keep.movedim(0, -1)
            shape[0] = x.shape[0]
        return self.module(x * keep.reshape(shape))


def gate_names(name: str, elements: Sequence[str]) -> tuple[str, ...]:
    """The choice names of a gate; raises ValueError for no elements, repeated elements or a bad name."""
    if not elements or len(set(elements)) != len(elements):
        raise ValueError(f"gate {name!r} needs at least one element, all of different names, got {list(elements)}")
    names = tuple(f"{name}.{element}" for element in elements)
    for row in names:
        check_choice(row, dict.fromkeys(LABELS))
    return names


def kept_elements(name: str, labels: Sequence[str]) -> list[int]:
    """Positions of the kept elements; raises ValueError if no element is kept."""
    kept = [i for i, label in enumerate(labels) if label == KEEP]
    if not kept:
        raise ValueError(f"gate {name!r} keeps nothing; at least one element must be kept")
    return kept


def plain(module: nn.Module, kept: Sequence[int], size: int, dim: int) -> nn.Sequential:
    """A slice (an identity if all elements are kept) and the module that reads it."""
    return nn.Sequential(nn.Identity() if len(kept) == size else Select(kept, dim), module)


@torch.no_grad()
def _inherit(name: str, small: nn.Module, large: nn.Module, kept: Sequence[int], size: int) -> None:
    """Copies weights and buffers, sliced along the dimensions that shrink."""
    theirs = {**dict(large.named_parameters()), **dict(large.named_buffers())}
    for key, target in [*small.named_parameters(), *small.named_buffers()]:
        source = theirs[key]
        for dim in range(source.dim()):
            if source.shape[dim] == size and target.shape[dim] == len(kept):
                source = source.index_select(dim, torch.tensor(kept, device=source.device))
        if source.shape != target.shape:
            raise ValueError(
                f"gate {name!r}: {key} of shape {tuple(theirs[key].shape)} cannot be cut to {tuple(target.shape)}"
            )
        target.data = source.detach().clone()
        if isinstance(target, nn.Parameter):
            target.requires_grad_(theirs[key].requires_grad)
    small.train(large.training)
