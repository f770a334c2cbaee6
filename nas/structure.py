"""Walks over a network with choices: which there are, which are active, how many architectures, and the plain network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from nas.gates import DROP, KEEP, Gate, kept_elements
from nas.mixed_op import ChoiceModule


def find_choices(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """All choices of a network: name -> labels, in module order.

    Raises:
        ValueError: A name used twice without ``shared=True``, or with different labels; both module paths are named.
    """
    first: dict[str, tuple[str, ChoiceModule]] = {}
    for path, module in network.named_modules():
        if not isinstance(module, ChoiceModule):
            continue
        rows = module.rows()
        for name, labels in rows.items():
            if name not in first:
                first[name] = (path, module)
                continue
            other_path, other = first[name]
            if not (module.shared and other.shared):
                raise ValueError(
                    f"choice {name!r} is used twice, at {other_path!r} and {path!r}; "
                    "say shared=True at every use if one decision is meant, or use nas.scope"
                )
            if labels != other.rows()[name]:
                raise ValueError(
                    f"shared choice {name!r} has labels {list(other.rows()[name])} at {other_path!r} "
                    f"but {list(labels)} at {path!r}"
                )
            if rows.keys() != other.rows().keys():
                raise ValueError(
                    f"shared choice {name!r} is decided together with other elements at {other_path!r} than at {path!r}; "
                    "gates that are shared must have the same elements"
                )
    return {name: module.rows()[name] for name, (_, module) in first.items()}


def outermost(modules: Iterable[nn.Module]) -> Iterator[ChoiceModule]:
    """The choices in `modules` that are not inside another choice."""
    for module in modules:
        if isinstance(module, ChoiceModule):
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
        for module in list(outermost([pending.pop()])):
            made = {name: _checked_label(name, labels, choices) for name, labels in module.rows().items()}
            active |= made
            for _, _, entered in module.branches(made):
                pending.extend(entered)
    order = list(find_choices(network))
    return {name: active[name] for name in order if name in active}


def _checked_label(name: str, labels: tuple[str, ...], choices: Mapping[str, Any]) -> str:
    if name not in choices:
        raise ValueError(f"genotype: no label for choice {name!r}")
    label = choices[name]
    if not isinstance(label, str) or label not in labels:
        raise ValueError(f"genotype: choice {name!r} has no candidate {label!r}; it has {', '.join(labels)}")
    return label


def keep_something(
    network: nn.Module, choices: Mapping[str, Any], probabilities: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """`choices`, in which each group of gates that drops everything keeps the most probable element."""
    result = dict(choices)
    for gate in network.modules():
        if isinstance(gate, Gate) and all(result.get(name) == DROP for name in gate.rows()):
            result[max(gate.rows(), key=lambda name: probabilities[name][KEEP])] = KEEP
    return result


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
    for gate in network.modules():
        if isinstance(gate, Gate) and set(gate.names) <= set(active):
            kept_elements(gate.name, [active[name] for name in gate.names])
    for name in choices:
        if name not in active:
            raise ValueError(f"genotype: choice {name!r} is inactive under the other choices; leave it out")
    return active


def derive(network: nn.Module, choices: Mapping[str, Any]) -> nn.Module:
    """A plain copy of `network` in which every choice is replaced by its chosen candidate, weights inherited.

    Candidates that were not chosen are never copied.
    """
    copies: dict[int, Any] = {}
    decided = [
        module
        for module in network.modules()
        if isinstance(module, ChoiceModule) and set(module.rows()) <= set(choices)
    ]
    for module in reversed(decided):  # inner choices first: they are copied before what holds them
        copies[id(module)] = module.derived(choices, copies)
    derived: nn.Module = copy.deepcopy(network, copies)
    return derived


def num_architectures(network: nn.Module) -> int:
    """The number of distinct assignments of active choices."""
    known: dict[Any, int] = {}

    def count(frontier: list[ChoiceModule], made: dict[str, str]) -> int:
        """Splits the frontier into groups that share no choice name, then branches inside each; equal groups are counted once."""
        total = 1
        for names, group in _independent(frontier):
            relevant = {name: label for name, label in made.items() if name in names}
            key = (tuple(id(module) for module in group), tuple(sorted(relevant.items())))
            if key not in known:
                first, rest = group[0], group[1:]
                known[key] = sum(
                    number * count([*outermost(entered), *rest], {**relevant, **decided})
                    for number, decided, entered in first.branches(relevant)
                )
            total *= known[key]
        return total

    return count(list(outermost([network])), {})


def _independent(frontier: list[ChoiceModule]) -> list[tuple[set[str], list[ChoiceModule]]]:
    groups: list[tuple[set[str], list[ChoiceModule]]] = []
    for outer in frontier:
        names = {name for module in outer.modules() if isinstance(module, ChoiceModule) for name in module.rows()}
        joined, apart = [outer], []
        for other_names, others in groups:
            if names & other_names:
                names |= other_names
                joined = others + joined
            else:
                apart.append((other_names, others))
        groups = [*apart, (names, joined)]
    return groups
