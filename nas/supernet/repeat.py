"""The choice of depth: the number of blocks in a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nas.ops import mix
from nas.supernet.base import ChoiceModule, Condition, check_choice, context_of
from nas.supernet.candidates import keep_input
from nas.supernet.modules import copied
from nas.supernet.sampling import checkpoint
from nas.supernet.trees import versions_of


class Repeat(ChoiceModule):
    """A sequence of blocks of which the first n are used; n is chosen.

    Made by :func:`nas.repeat`. The sequence runs once, and the op weights mix the outputs after each number of blocks. If only sampled
    candidates run, blocks after the deepest sampled candidate do not run. The derived form is an ``nn.Sequential`` of the first n blocks.
    """

    def __init__(self, name: str, blocks: Sequence[nn.Module], counts: Sequence[int], *, shared: bool = False) -> None:
        super().__init__()
        self.counts = check_counts(name, counts)
        assert len(blocks) == self.counts[-1]
        self.name = name
        self.labels = tuple(str(count) for count in self.counts)
        self.blocks = nn.ModuleList(map(keep_input, blocks))
        self.shared = shared

    def extra_repr(self) -> str:
        return f"name={self.name!r}, counts={list(self.counts)}"

    def rows(self) -> dict[str, tuple[str, ...]]:
        return {self.name: self.labels}

    def parts(self) -> Iterator[tuple[Condition, nn.Module]]:
        for i, block in enumerate(self.blocks):
            yield {self.name: frozenset(str(count) for count in self.counts if count > i)}, block

    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        blocks = list(self.blocks)[: int(choices[self.name])]
        return nn.Sequential(*[copied(block, copies) for block in blocks])

    def forward(self, x: Tensor) -> Tensor:
        """The op-weighted sum of the outputs after each number of blocks."""
        context = context_of(self.name)
        row = context.rows[self.name]
        indices = context.active[row] if context.active else list(range(len(self.counts)))
        run = checkpoint if context.checkpoint_candidates else _call
        outputs, before = {0: x}, {0: versions_of(x)}
        for i in range(self.counts[indices[-1]]):
            x = run(self.blocks[i], x)
            outputs[i + 1], before[i + 1] = x, versions_of(x)
            if versions_of(outputs[i]) != before[i]:
                raise ValueError(
                    f"choice {self.name!r}: block {i} changes its input in place; make it return a new tensor"
                )
        chosen = [outputs[self.counts[k]] for k in indices]
        if any(output.shape != chosen[0].shape for output in chosen):
            shapes = ", ".join(f"{self.labels[k]}: {tuple(outputs[self.counts[k]].shape)}" for k in indices)
            raise ValueError(f"choice {self.name!r}: outputs after these numbers of blocks differ in shape ({shapes})")
        return mix(chosen, context.op_weights[row][..., indices])


def _call(block: nn.Module, x: Tensor) -> Any:
    return block(x)


def check_counts(name: str, counts: Sequence[int]) -> tuple[int, ...]:
    """The counts in ascending order; raises ValueError for bad counts or a bad name."""
    numbers = tuple(sorted(counts))
    if len(set(numbers)) != len(numbers) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise ValueError(f"repeat {name!r}: counts must be different whole numbers of at least 0, got {list(counts)}")
    check_choice(name, dict.fromkeys(str(n) for n in numbers))
    return numbers
