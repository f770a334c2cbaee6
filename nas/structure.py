"""Walks over a network with choices: which there are, which are active, how many architectures, and the plain network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from nas.mixed_op import MixedOp


def find_choices(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """All choices of a network: name -> labels, in module order.

    Raises:
        ValueError: A name used twice without ``shared=True``, or with different labels; both module paths are named.
    """
    first: dict[str, tuple[str, MixedOp]] = {}
    for path, module in network.named_modules():
        if not isinstance(module, MixedOp):
            continue
        if module.name not in first:
            first[module.name] = (path, module)
            continue
        other_path, other = first[module.name]
        if not (module.shared and other.shared):
            raise ValueError(
                f"choice {module.name!r} is used twice, at {other_path!r} and {path!r}; "
                "say shared=True at every use if one decision is meant, or use nas.scope"
            )
        if module.labels != other.labels:
            raise ValueError(
                f"shared choice {module.name!r} has labels {list(other.labels)} at {other_path!r} "
                f"but {list(module.labels)} at {path!r}"
            )
    return {name: module.labels for name, (_, module) in first.items()}


def outermost(modules: Iterable[nn.Module]) -> Iterator[MixedOp]:
    """The choices in `modules` that are not inside a candidate of another choice."""
    for module in modules:
        if isinstance(module, MixedOp):
            yield module
        else:
            yield from outermost(module.children())


def active_choices(network: nn.Module, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `choices` that is reached when only chosen candidates are entered.

    Args:
        network: A network with choices.
        choices: name -> label, for at least the active choices.

    Raises:
        ValueError: An active choice has no label, or one it does not know.
    """
    active: dict[str, Any] = {}
    pending = [network]
    while pending:
        for mixed in list(outermost([pending.pop()])):
            active[mixed.name] = choices.get(mixed.name)
            pending.append(_chosen(mixed, choices))
    order = list(find_choices(network))
    return {name: active[name] for name in order if name in active}


def _chosen(mixed: MixedOp, choices: Mapping[str, Any]) -> nn.Module:
    if mixed.name not in choices:
        raise ValueError(f"genotype: no label for choice {mixed.name!r}")
    label = choices[mixed.name]
    if not isinstance(label, str) or label not in mixed.labels:
        raise ValueError(
            f"genotype: choice {mixed.name!r} has no candidate {label!r}; it has {', '.join(mixed.labels)}"
        )
    return mixed.candidates[mixed.labels.index(label)]


def checked_choices(network: nn.Module, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Like :func:`active_choices`, and refuses choices that the network does not have or does not reach.

    Raises:
        ValueError: An unknown, inactive or missing choice, or an unknown label.
    """
    known = find_choices(network)
    for name in choices:
        if name not in known:
            raise ValueError(f"genotype: unknown choice {name!r}; the space has {', '.join(known) or 'none'}")
    active = active_choices(network, choices)
    for name in choices:
        if name not in active:
            raise ValueError(f"genotype: choice {name!r} is inactive under the other choices; leave it out")
    return active


def derive(network: nn.Module, choices: Mapping[str, Any]) -> nn.Module:
    """A plain copy of `network` in which every choice is replaced by its chosen candidate, weights inherited.

    Candidates that were not chosen are never copied.
    """
    copies: dict[int, Any] = {}
    mixed_ops = [module for module in network.modules() if isinstance(module, MixedOp)]
    for mixed in reversed(mixed_ops):  # inner choices first: they are copied before what holds them
        if mixed.name in choices:
            copies[id(mixed)] = copy.deepcopy(_chosen(mixed, choices), copies)
    derived: nn.Module = copy.deepcopy(network, copies)
    return derived


def num_architectures(network: nn.Module) -> int:
    """The number of distinct assignments of active choices."""
    return _count(list(outermost([network])), {})


def _count(frontier: list[MixedOp], made: dict[str, int]) -> int:
    """Counts by splitting the frontier into groups that share no choice name, then branching inside each group."""
    open_ops: list[MixedOp] = []
    while frontier:
        mixed = frontier.pop()
        if mixed.name in made:
            frontier.extend(outermost([mixed.candidates[made[mixed.name]]]))
        else:
            open_ops.append(mixed)
    total = 1
    for group in _independent(open_ops):
        name, labels = group[0].name, group[0].labels
        total *= sum(_count(list(group), {**made, name: k}) for k in range(len(labels)))
    return total


def _independent(mixed_ops: list[MixedOp]) -> list[list[MixedOp]]:
    groups: list[tuple[set[str], list[MixedOp]]] = []
    for mixed in mixed_ops:
        names = {module.name for module in mixed.modules() if isinstance(module, MixedOp)}
        joined, apart = [mixed], []
        for other_names, others in groups:
            if names & other_names:
                names |= other_names
                joined = others + joined
            else:
                apart.append((other_names, others))
        groups = [*apart, (names, joined)]
    return [group for _, group in groups]
