"""Turns a trained network into a network with choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from nas.conversion.attention import with_free_heads
from nas.conversion.depth import gate, residual_blocks
from nas.conversion.groups import Group, Solution
from nas.conversion.importance import sort_units
from nas.conversion.proof import Proof
from nas.conversion.rules import trace
from nas.conversion.tracing import exported
from nas.supernet.building import present_build
from nas.supernet.modules import check_network, copied
from nas.supernet.places import places_of
from nas.supernet.structure import active_choices, derive, find_choices, num_architectures

WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
MULTIPLE = 8


@dataclass(frozen=True)
class Options:
    """What :func:`convert` looks for; see there."""

    width: Sequence[float] = WIDTHS
    multiple: int = MULTIPLE
    order: str = "magnitude"
    depth: bool = True
    skip: Sequence[str] = ()

    def __post_init__(self) -> None:
        for share in self.width:
            if not 0 < share <= 1:
                raise ValueError(f"nas.convert: a share of the channels must be above 0 and at most 1, got {share}")
        if self.multiple < 1:
            raise ValueError(f"nas.convert: multiple must be at least 1, got {self.multiple}")

    def keeps(self, path: str) -> bool:
        """Whether a module is one that is always kept, or inside one."""
        return any(path == name or path.startswith(f"{name}.") for name in self.skip)

    def sizes(self, group: Group) -> list[int]:
        """The numbers of units to choose from."""
        units = len(group.units)
        if group.is_heads:
            return list(range(1, units + 1))
        multiple = self.multiple if units >= 2 * self.multiple else 1
        rounded = (round(share * units / multiple) * multiple for share in self.width)
        return sorted({*(min(units, max(multiple, size)) for size in rounded), units})


class Conversion(NamedTuple):
    """The result of :func:`converted`.

    Attributes:
        network: The network with choices.
        groups: The groups that can be cut.
        sizes: Name of a group -> the numbers of units to choose from.
        blocks: Paths of residual blocks that can be dropped.
        whole: Path of a layer that is left whole -> the reason.
    """

    network: nn.Module
    groups: list[Group]
    sizes: dict[str, list[int]]
    blocks: list[str]
    whole: dict[str, str]

    def copy(self) -> nn.Module:
        """A new copy of the network; under :func:`nas.architecture`, the plain network of its choices."""
        build = present_build()
        if build is None:
            return copied(self.network)
        labels = find_choices(self.network)
        active = active_choices(self.network, {name: build.choices[name] for name in labels if name in build.choices})
        for name in active:
            build.number(name, dict.fromkeys(labels[name], 0), False)
        return derive(self.network, active)

    def __str__(self) -> str:
        """A line for each group, and for each layer that is left whole."""
        lines = [
            f"{group.name}: {'heads' if group.is_heads else 'channels'} {', '.join(map(str, self.sizes[group.name]))}"
            + (
                f" (with {', '.join(shown)})"
                if (shown := [path for path, _ in group.producers if path != group.name])
                else ""
            )
            for group in self.groups
        ]
        lines += [f"{path}: keep or drop" for path in self.blocks]
        lines += [f"{path}: left whole: {reason}" for path, reason in self.whole.items()]
        return "\n".join([*lines, f"{num_architectures(self.network):,} architectures"])


def convert(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    width: Sequence[float] = WIDTHS,
    multiple: int = MULTIPLE,
    order: str = "magnitude",
    depth: bool = True,
    skip: Sequence[str] = (),
    verbose: bool = True,
) -> nn.Module:
    """Puts choices into a trained network of any kind, and keeps its weights.

    Channels that must be cut together are found in the graph of torch.export and become one choice of width, named by the path of the
    first layer that makes them. Attention heads, with their group of keys and values, are one unit each. Every choice is proven on the
    example inputs: the network with masks equals the network with smaller layers. Layers without proof are left whole, with the reason.

    Example: ``supernet = nas.Supernet(nas.convert(model, (images,)))``; a network that is derived from it is the model with smaller layers.

    Args:
        model: Any module that torch.export can trace; it is not changed.
        example_inputs: Positional arguments of a call; a tensor alone is the only one.
        example_kwargs: Keyword arguments of the call.
        width: Shares of the channels to choose from, rounded to multiples of `multiple`.
        multiple: Divides the numbers of channels to choose from. Attention heads are counted one by one.
        order: Which channels are dropped first: those of the smallest ``magnitude``, ``batch_norm`` scale, ``taylor`` (weight times the
            gradients that the model holds), ``activation`` on the example, or all but the ``first``; see
            :data:`nas.conversion.importance.ORDERS`.
        depth: Whether residual blocks whose input and output have one shape can be dropped.
        skip: Paths of modules that are always kept.
        verbose: Print the choices, and what is left whole.

    Returns:
        A copy of the model, in its mode, with choices.

    Raises:
        ValueError: The model cannot be traced, has choices already, or nothing in it can be cut.
    """
    options = Options(width, multiple, order, depth, skip)
    found = converted(model, example_inputs, example_kwargs, options)
    if verbose:
        print(found)
    return found.copy()


def converted(
    model: nn.Module,
    example_inputs: Sequence[Any] | Tensor,
    example_kwargs: Mapping[str, Any] | None = None,
    options: Options = Options(),
) -> Conversion:
    """Like :func:`convert`, with all that is known of the result."""
    check_network(model)
    args = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    kwargs = dict(example_kwargs or {})
    if any(places_of(model)):
        raise ValueError("nas.convert: the model has choices already")
    network, gradients = with_free_heads(copied(model)), model
    model = copied(network).eval()
    program = exported(model, args, kwargs)
    solution = Solution(trace(program))
    for own, other in zip(model.parameters(), gradients.parameters(), strict=True):
        own.grad = other.grad
    sort_units(model, solution, options.order, args, kwargs)
    model.zero_grad(set_to_none=True)
    whole = dict(solution.whole)
    groups = [group for group in solution.groups if not any(options.keeps(path) for path, _ in group.producers)]
    sizes = {group.name: options.sizes(group) for group in groups}
    groups = [group for group in groups if len(sizes[group.name]) > 1]
    proof = Proof(model, solution, args, kwargs, sizes)
    numbers = proof.of(groups, whole)
    groups = [group for group in groups if group.name in numbers]
    blocks = [path for path in residual_blocks(program) if not options.keeps(path)] if options.depth else []
    blocks = proof.of_blocks(blocks, groups, numbers, whole)
    if not groups and not blocks:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(whole.items())[:3])
        raise ValueError(f"nas.convert: nothing in {type(model).__name__} can be cut ({reasons})")
    proof.attach(network, groups, numbers)
    gate(network, blocks)
    return Conversion(network, groups, {group.name: sizes[group.name] for group in groups}, blocks, whole)
