"""Walks over a network with choices: which there are, which are active, how many architectures, and the plain network."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from nas.supernet.base import ChoiceModule, Condition
from nas.supernet.modules import copied, cut_results
from nas.supernet.narrowing import narrowed
from nas.supernet.places import decisions, outermost, places_of


def find_rows(network: nn.Module) -> dict[str, ChoiceModule]:
    """All choices of a network: name -> the first place that decides it, in module order.

    Raises:
        ValueError: A name used twice without ``shared=True``, or with different labels; both module paths are named.
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
    """Choice name -> its most probable label; of equals, the first."""
    return {name: max(row, key=row.__getitem__) for name, row in probabilities.items()}


def _check_same(name: str, path: str, place: ChoiceModule, other_path: str, other: ChoiceModule) -> None:
    if place.origin is not None and place.origin is other.origin:
        return
    if not (place.shared and other.shared):
        raise ValueError(
            f"choice {name!r} is used twice, at {path!r} and {other_path!r}; "
            "say shared=True at every use if one decision is meant, or use nas.scope"
        )
    rows, others = place.rows(), other.rows()
    if rows[name] != others[name]:
        raise ValueError(
            f"shared choice {name!r} has labels {list(rows[name])} at {path!r} but {list(others[name])} at {other_path!r}"
        )
    if rows.keys() != others.keys():
        raise ValueError(
            f"shared choice {name!r} is decided together with other elements at {path!r} than at {other_path!r}; "
            "gates that are shared must have the same elements"
        )
    kinds = [(p.num_chosen, p.search_only, p.learned) for p in (place, other)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"shared choice {name!r} differs between {path!r} and {other_path!r} in k, learned or search_only"
        )


def active_choices(network: nn.Module, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `choices` that is reached when only chosen candidates are entered.

    Args:
        network: A network with choices.
        choices: name -> label, for at least the active choices.

    Raises:
        ValueError: An active choice has no label, one it does not know, or labels that are not allowed together.
    """
    active: dict[str, Any] = {}
    pending = [network]
    while pending:
        for module in list(outermost([pending.pop()])):
            made = module.check(choices)
            active |= made
            for _, _, entered in module.branches(made):
                pending.extend(entered)
    order = list(find_choices(network))
    return {name: active[name] for name in order if name in active}


def conjunction(first: Condition, second: Condition) -> Condition | None:
    """Both conditions; None where they cannot hold together."""
    both = dict(first)
    for name, labels in second.items():
        both[name] = both[name] & labels if name in both else labels
    return both if all(both.values()) else None


def first_choices(network: nn.Module) -> dict[str, Any]:
    """A reference architecture, with values for inactive choices too: first labels, all of what is gated, full widths."""
    return {name: place.first(name) for name, place in find_rows(network).items()}


def random_choices(network: nn.Module, seed: int) -> dict[str, Any]:
    """A random architecture: labels for every active choice, each drawn evenly."""
    draw = random.Random(seed)
    places = find_rows(network)
    everything = draw_choices(places, draw)
    even = {name: {label: draw.random() for label in place.rows()[name]} for name, place in places.items()}
    return active_choices(network, completed(network, everything, even))


def all_choices(network: nn.Module) -> Iterator[dict[str, Any]]:
    """Every architecture once, the first choice varying slowest."""
    places = find_rows(network)
    pending: list[dict[str, Any]] = [{}]
    while pending:
        made = pending.pop()
        name = _undecided(network, made)
        if name is not None:
            pending.extend({**made, name: value} for value in reversed(list(places[name].values(name))))
        elif allows(network, made):
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


def allows(network: nn.Module, choices: Mapping[str, Any]) -> bool:
    """Whether every place allows what is decided together at it."""
    return all(place.allows(choices) for place in places_of(network))


def draw_choices(
    places: Mapping[str, ChoiceModule],
    source: random.Random,
    probabilities: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """A value for every choice, active or not: drawn from `probabilities`, or evenly."""
    return {
        name: place.draw(name, source, None if probabilities is None else probabilities[name])
        for name, place in places.items()
    }


def completed(
    network: nn.Module, choices: Mapping[str, Any], probabilities: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """A genotype's values out of a label for each name; see :meth:`nas.supernet.base.ChoiceModule.complete`."""
    result = dict(choices)
    for place in {id(place): place for place in find_rows(network).values()}.values():
        result |= place.complete(result, probabilities)
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
    for name in choices:
        if name not in active:
            raise ValueError(f"genotype: choice {name!r} is inactive under the other choices; leave it out")
    return active


def derive(network: nn.Module, choices: Mapping[str, Any]) -> nn.Module:
    """A plain copy of `network` in which every choice is replaced by its chosen candidate, weights inherited.

    Candidates that were not chosen are never copied.
    """
    copies: dict[int, Any] = {}
    copies.update(cut_results(network, copies))
    for module in reversed(list(network.modules())):  # inner modules first: they are copied before what holds them
        names = {name for place in decisions(module) for name in place.rows()}
        if names and names <= choices.keys():
            make = module.derived if isinstance(module, ChoiceModule) else partial(narrowed, module)
            plain = make(choices, copies)
            # where a place makes its module anew, widths in it are open
            copies[id(module)] = derive(plain, choices) if any(places_of(plain)) else plain
    derived: nn.Module = copied(network, copies)
    return derived


def num_architectures(network: nn.Module) -> int:
    """The number of distinct assignments of active choices."""
    known: dict[Any, int] = {}
    signature = _Signatures()

    def count(frontier: Iterable[ChoiceModule], made: dict[str, Any]) -> int:
        """Splits the frontier into groups that share no choice name, then branches inside each; equal groups are counted once."""
        total = 1
        distinct = list({signature(place): place for place in frontier}.values())  # alike and shared: decided together
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
    """What a place decides, with all that lies inside it: equal for places that are decided alike."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[ChoiceModule, Any]] = {}  # keeps the module, so that its id is not used again

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
    """The names that a place decides, and those of every choice inside it."""
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
