"""Walks over a network with choices: all choices, active choices, the number of architectures, and the derived network."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from nas.supernet.base import ChoiceModule, Condition
from nas.supernet.modules import copied, cut_results
from nas.supernet.narrowing import narrowed
from nas.supernet.numbering import renumber_blocks
from nas.supernet.places import decisions, outermost, places_of


def find_rows(network: nn.Module) -> dict[str, ChoiceModule]:
    """All choices of a network: name -> the first choice module with that name, in module order.

    Raises:
        ValueError: A name is used twice without ``shared=True``, or with different labels. The message names both module paths.
    """
    first: dict[str, tuple[str, ChoiceModule]] = {}
    for path, module in network.named_modules():
        for place in decisions(module):
            for name in place.rows():
                if name in first:
                    _check_same(name, *first[name], path, place)
                else:
                    first[name] = (path, place)
    return {name: place for name, (_, place) in first.items()}


def find_choices(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """All choices of a network: name -> labels, in module order; raises like :func:`find_rows`."""
    return {name: place.rows()[name] for name, place in find_rows(network).items()}


def argmax_choices(probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Choice name -> its most probable label; in a tie, the first."""
    return {name: max(row, key=row.__getitem__) for name, row in probabilities.items()}


def _check_same(name: str, path: str, place: ChoiceModule, other_path: str, other: ChoiceModule) -> None:
    if place.origin is not None and place.origin is other.origin:
        return
    if not (place.shared and other.shared):
        raise ValueError(
            f"choice {name!r} is used twice, at {path!r} and {other_path!r}; "
            "set shared=True at every use if the uses are one decision, or use nas.scope"
        )
    rows, others = place.rows(), other.rows()
    if rows[name] != others[name]:
        raise ValueError(
            f"shared choice {name!r} has labels {list(rows[name])} at {path!r} but {list(others[name])} at {other_path!r}"
        )
    if rows.keys() != others.keys():
        raise ValueError(
            f"shared choice {name!r} belongs to gates with different elements at {path!r} and {other_path!r}; "
            "shared gates must have the same elements"
        )
    kinds = [(p.num_chosen, p.search_only, p.learned) for p in (place, other)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"shared choice {name!r} differs between {path!r} and {other_path!r} in k, learned or search_only"
        )


def active_choices(
    network: nn.Module, choices: Mapping[str, Any], order: Iterable[str] | None = None
) -> dict[str, Any]:
    """The part of `choices` that is active: the choices that are reached through chosen candidates only.

    `order` are the names of all choices, if they are known already.

    Raises:
        ValueError: An active choice has no label, an unknown label, or labels that are not allowed together.
    """
    active: dict[str, Any] = {}
    pending = [network]
    while pending:
        for module in list(outermost([pending.pop()])):
            made = module.check(choices)
            active |= made
            for _, _, entered in module.branches(made):
                pending.extend(entered)
    return {name: active[name] for name in order or find_choices(network) if name in active}


def conjunction(first: Condition, second: Condition) -> Condition | None:
    """Both conditions together; None if they contradict each other."""
    both = dict(first)
    for name, labels in second.items():
        both[name] = both[name] & labels if name in both else labels
    return both if all(both.values()) else None


def first_choices(network: nn.Module) -> dict[str, Any]:
    """A reference architecture, with values for inactive choices too: first labels, all gated elements, full widths."""
    return {name: place.first(name) for name, place in find_rows(network).items()}


def random_choices(network: nn.Module, seed: int) -> dict[str, Any]:
    """A random architecture: labels for every active choice, drawn uniformly."""
    draw = random.Random(seed)
    places = find_rows(network)
    everything = draw_choices(places, draw)
    even = {name: {label: draw.random() for label in place.rows()[name]} for name, place in places.items()}
    return active_choices(network, completed(places.values(), everything, even))


def all_choices(network: nn.Module) -> Iterator[dict[str, Any]]:
    """Every architecture once; the first choice varies slowest."""
    rows, places = find_rows(network), list(places_of(network))
    pending: list[dict[str, Any]] = [{}]
    while pending:
        made = pending.pop()
        name = _undecided(network, made)
        if name is not None:
            pending.extend({**made, name: value} for value in reversed(list(rows[name].values(name))))
        elif allows(places, made):
            yield active_choices(network, made)


def _undecided(network: nn.Module, choices: Mapping[str, Any]) -> str | None:
    """The first active choice, in the network's order, that `choices` leaves open."""
    pending = [network]
    while pending:
        for module in list(outermost([pending.pop(0)])):
            made = {name: choices[name] for name in module.rows() if name in choices}
            if len(made) < len(module.rows()):
                return next(name for name in module.rows() if name not in choices)
            for _, _, entered in module.branches(made):
                pending.extend(entered)
    return None


def allows(places: Iterable[ChoiceModule], choices: Mapping[str, Any]) -> bool:
    """Whether every choice module allows its values together."""
    return all(place.allows(choices) for place in places)


def draw_choices(
    places: Mapping[str, ChoiceModule],
    source: random.Random,
    probabilities: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """A value for every choice, active or not: drawn from `probabilities`, or uniformly."""
    return {
        name: place.draw(name, source, None if probabilities is None else probabilities[name])
        for name, place in places.items()
    }


def completed(
    places: Iterable[ChoiceModule], choices: Mapping[str, Any], probabilities: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The values of a genotype, made from a label for each name; see :meth:`nas.supernet.base.ChoiceModule.complete`."""
    result = dict(choices)
    for place in {id(place): place for place in places}.values():
        result |= place.complete(result, probabilities)
    return result


def checked_choices(network: nn.Module, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Like :func:`active_choices`, but also raises ValueError for unknown and inactive choices."""
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
    copies = cut_results(network)
    for module in reversed(list(network.modules())):  # inner modules are copied before the modules that hold them
        names = {name for place in decisions(module) for name in place.rows()}
        if names and names <= choices.keys():
            make = module.derived if isinstance(module, ChoiceModule) else partial(narrowed, module)
            plain = make(choices, copies)
            # a choice may build a new module, in which widths are open
            copies[id(module)] = derive(plain, choices) if any(places_of(plain)) else plain
    derived: nn.Module = copied(network, copies)
    renumber_blocks(derived)
    return derived


def num_architectures(network: nn.Module) -> int:
    """The number of distinct assignments of active choices."""
    known: dict[Any, int] = {}
    signature = _Signatures()

    def count(frontier: Iterable[ChoiceModule], made: dict[str, Any]) -> int:
        """Splits the frontier into groups that share no choice name, and branches inside each group. Equal groups are counted once."""
        total = 1
        # choices with equal signatures are shared and so decided together
        distinct = list({signature(place): place for place in frontier}.values())
        for names, group in _independent(distinct):
            relevant = {name: label for name, label in made.items() if name in names}
            key = (tuple(signature(place) for place in group), tuple(sorted(relevant.items())))
            if key not in known:
                first, rest = group[0], group[1:]
                known[key] = sum(
                    number * count([*outermost(entered), *rest], {**relevant, **decided})
                    for number, decided, entered in first.branches(relevant)
                )
            total *= known[key]
        return total

    return count(outermost([network]), {})


class _Signatures:
    """A hashable description of a choice and everything inside it; equal for choices that make the same decisions."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[ChoiceModule, Any]] = {}  # keeps the module, so that its id is not reused

    def __call__(self, place: ChoiceModule) -> Any:
        if id(place) not in self.known:
            inside = [
                (tuple(sorted((name, tuple(sorted(labels))) for name, labels in condition.items())), self(inner))
                for condition, module in place.parts()
                for inner in outermost([module])
            ]
            self.known[id(place)] = (place, (tuple(place.rows().items()), tuple(inside)))
        return self.known[id(place)][1]


def names_inside(place: ChoiceModule) -> set[str]:
    """The names of a choice and of every choice inside it."""
    return {name for inner in places_of(place) for name in inner.rows()}


def _independent(frontier: list[ChoiceModule]) -> list[tuple[set[str], list[ChoiceModule]]]:
    groups: list[tuple[set[str], list[ChoiceModule]]] = []
    for outer in frontier:
        names = names_inside(outer)
        joined, apart = [outer], []
        for other_names, others in groups:
            if names & other_names:
                names |= other_names
                joined = others + joined
            else:
                apart.append((other_names, others))
        groups = [*apart, (names, joined)]
    return groups
