"""Walks over a network with choices: which there are, which are active, how many architectures, and the plain network."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import Any

from torch import nn

from nas.supernet.base import ChoiceModule, Literals, check_value
from nas.supernet.gate import DROP, KEEP, Gate, kept_elements
from nas.supernet.input_choice import InputChoice
from nas.supernet.module_copy import copied, cut_results
from nas.supernet.width import WidthRow, narrowed, widths_of


def decisions(module: nn.Module) -> list[ChoiceModule]:
    """The places of decision that a module is or holds itself: the module, or its widths."""
    if isinstance(module, ChoiceModule):
        return [module]
    return [WidthRow(width) for width in widths_of(module).values()]


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


def _check_same(name: str, path: str, place: ChoiceModule, other_path: str, other: ChoiceModule) -> None:
    if isinstance(place, WidthRow) and isinstance(other, WidthRow) and place.width.origin is other.width.origin:
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


def outermost(modules: Iterable[nn.Module]) -> Iterator[ChoiceModule]:
    """The places of decision in `modules` that are not inside a choice."""
    for module in modules:
        yield from decisions(module)
        if not isinstance(module, ChoiceModule):
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
            made = {name: _checked(name, module, choices) for name in module.rows()}
            active |= made
            for _, _, entered in module.branches(made):
                pending.extend(entered)
    order = list(find_choices(network))
    return {name: active[name] for name in order if name in active}


def _checked(name: str, place: ChoiceModule, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise ValueError(f"genotype: no label for choice {name!r}")
    labels = place.rows()[name]
    return check_value(name, labels, choices[name], num_chosen=place.num_chosen, search_only=place.search_only)


def conjunction(first: Literals, second: Literals) -> Literals | None:
    """Both conditions; None where they cannot hold together."""
    both = dict(first)
    for name, labels in second.items():
        both[name] = both[name] & labels if name in both else labels
    return both if all(both.values()) else None


def first_choices(network: nn.Module) -> dict[str, Any]:
    """The first label, or labels, that a genotype may have of every choice, also of inactive ones; all of what is gated, full widths."""
    result: dict[str, Any] = {}
    for name, place in find_rows(network).items():
        labels = place.derivable(place.rows()[name])
        result[name] = labels[0] if place.num_chosen == 1 else sorted(labels[: place.num_chosen])
        if isinstance(place, Gate):
            result[name] = KEEP
        elif isinstance(place, WidthRow):
            result[name] = labels[-1]
    return result


def random_choices(network: nn.Module, seed: int) -> dict[str, Any]:
    """A random architecture: labels for every active choice, each drawn evenly."""
    draw = random.Random(seed)
    places = find_rows(network)
    everything = draw_labels(places, draw)
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
            place = places[name]
            labels = place.derivable(place.rows()[name])
            several = [list(labels) for labels in combinations(sorted(labels), place.num_chosen)]
            values = labels if place.num_chosen == 1 else several
            pending.extend({**made, name: value} for value in reversed(values))
        elif all(len(gate.names) > sum(made.get(row) == DROP for row in gate.names) for gate in _gates(network)):
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


def _gates(network: nn.Module) -> list[Gate]:
    return [module for module in network.modules() if isinstance(module, Gate)]


def draw_labels(places: Mapping[str, ChoiceModule], draw: random.Random) -> dict[str, Any]:
    """Labels for every choice, active or not, each drawn evenly."""
    return {name: draw_evenly(place, name, draw) for name, place in places.items()}


def draw_evenly(place: ChoiceModule, name: str, draw: random.Random) -> Any:
    """A label of one choice, or as many as are chosen."""
    labels = place.derivable(place.rows()[name])
    return sorted(draw.sample(labels, place.num_chosen)) if place.num_chosen > 1 else draw.choice(labels)


def completed(
    network: nn.Module, choices: Mapping[str, Any], probabilities: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """`choices` with what a label for each name cannot say.

    Each group of gates that drops everything keeps the most probable element; a choice that was given a label of the search only gets the
    most probable other; a choice of several inputs gets as many as it needs.
    """
    result = dict(choices)
    places = find_rows(network)
    for gate in {id(place): place for place in places.values() if isinstance(place, Gate)}.values():
        if all(result.get(row) == DROP for row in gate.names):
            result[max(gate.names, key=lambda row: probabilities[row][KEEP])] = KEEP
    for name, place in places.items():
        value = result.get(name)
        if isinstance(place, InputChoice) and isinstance(value, str):
            worth = {label: _worth(place, label, probabilities) for label in place.labels}
            result[name] = sorted(sorted(worth, key=lambda label: -worth[label])[: place.num_chosen])
        elif isinstance(value, str) and value in place.search_only:
            result[name] = max(place.derivable(place.rows()[name]), key=probabilities[name].__getitem__)
    return result


def _worth(place: InputChoice, label: str, probabilities: Mapping[str, Mapping[str, float]]) -> float:
    """How probable an input is: the best candidates inside its module, times its own probability where that is learned."""
    worth = probabilities[place.name][label] if place.learned else 1.0
    for inner in outermost([place.candidates[place.labels.index(label)]]):
        for name, labels in inner.rows().items():
            worth *= max(probabilities[name][other] for other in inner.derivable(labels))
    return worth


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
    for gate in _gates(network):
        if set(gate.names) <= set(active):
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
    copies.update(cut_results(network, copies))
    for module in reversed(list(network.modules())):  # inner modules first: they are copied before what holds them
        names = {name for place in decisions(module) for name in place.rows()}
        if names and names <= set(choices):
            make = module.derived if isinstance(module, ChoiceModule) else partial(narrowed, module)
            plain = make(choices, copies)
            # a gate makes its module anew, with widths open
            copies[id(module)] = derive(plain, choices) if isinstance(module, Gate) and _is_open(plain) else plain
    derived: nn.Module = copied(network, copies)
    return derived


def _is_open(module: nn.Module) -> bool:
    return any(decisions(inner) for inner in module.modules())


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
        if isinstance(place, WidthRow):
            return tuple(place.rows().items())
        if id(place) not in self.known:
            inside = [
                (tuple(sorted((name, tuple(sorted(labels))) for name, labels in literals.items())), self(inner))
                for literals, module in place.parts()
                for inner in outermost([module])
            ]
            self.known[id(place)] = (place, (tuple(place.rows().items()), tuple(inside)))
        return self.known[id(place)][1]


def names_inside(place: ChoiceModule) -> set[str]:
    """The names that a place decides, and those of every choice inside it."""
    return {name for module in place.modules() for inner in decisions(module) for name in inner.rows()}


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
