"""The base class of choices, and the context that passes op weights to them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from nas.genotype import CHOICE_NAME, LABEL, labels_of
from nas.relaxations import Sampler
from nas.supernet.fused.mixture import Fused

Condition = Mapping[str, frozenset[str]]
"""Choice name -> labels. A genotype satisfies the condition if each of these choices has one of its labels."""

Cost = Callable[[nn.Module, tuple[Any, ...]], float]
"""The cost of a plain module that is called with these arguments."""
TINY = 1e-30


@dataclass(frozen=True)
class Context:
    """The data that one forward of a supernet passes to the choices inside it. `decided` has labels that an outer layer runs with."""

    rows: Mapping[str, int]
    op_weights: Tensor
    active: list[list[int]] | None
    sampler: Sampler | None
    checkpoint_candidates: bool
    fused: Fused | None = None
    unit_weights: bool = False
    used: set[str] | None = None
    decided: Mapping[str, str] = field(default_factory=dict)


_CONTEXT: ContextVar[Context | None] = ContextVar("nas_context", default=None)


class _Traced:
    """Holds the context while torch.compile traces, because traced code cannot set a ContextVar; otherwise None."""

    def __init__(self) -> None:
        self.context: Context | None = None


_TRACED = _Traced()


@contextmanager
def active_context(context: Context | None) -> Iterator[None]:
    """Makes `context` visible to choices; restores the previous context on exit, also after an error."""
    if torch.compiler.is_compiling():
        before, _TRACED.context = _TRACED.context, context
        try:
            yield
        finally:
            _TRACED.context = before
        return
    token = _CONTEXT.set(context)
    try:
        yield
    finally:
        _CONTEXT.reset(token)


def context_of(name: str) -> Context:
    """The context of the enclosing supernet's forward; raises RuntimeError if there is no supernet that owns the choice."""
    context = present_context()
    if context is None or name not in context.rows:
        where = "outside a supernet" if context is None else "in a supernet that does not own it"
        raise RuntimeError(
            f"choice {name!r} was called {where}: call nas.Supernet(network)(..., op_weights=...), or call the network inside "
            "sampled() or most_probable() of a nas.Searcher (nas.lightning.SearchCallback does so in a fit), with the choice "
            "registered as a submodule. Under activation checkpointing use nas.checkpoint."
        )
    if context.used is not None:
        context.used.add(name)
    return context


def present_context() -> Context | None:
    """The context of the enclosing supernet's forward; None outside a supernet."""
    if torch.compiler.is_compiling() and _TRACED.context is not None:
        return _TRACED.context
    return _CONTEXT.get()


class ChoiceModule(nn.Module, ABC):
    """Base class of choices. A choice module has one or more names, and one row of alpha for each name.

    A kind of choice is one file: a subclass with the three abstract methods. The default methods use these three.

    Attributes:
        shared: Whether other modules may have the same names, and so use the same logits.
        num_chosen: Number of labels that a genotype gives to each name. Above 1, the value is a sorted list, and the row is not drawn.
        search_only: Labels that compete while searching but cannot be in a genotype.
        learned: Whether the rows of alpha are trained; otherwise they are frozen.
        is_one_part: Whether :meth:`cost_terms` gives the cost of the choice; otherwise each of its parts has its own cost.
        cuts: Whether deriving cuts tensors. Sums over fewer elements then round differently.
        origin: Choices with the same origin are one decision, even if they are not shared; None: no common origin.
    """

    shared: bool
    num_chosen: int = 1
    search_only: frozenset[str] = frozenset()
    learned: bool = True
    is_one_part: bool = False
    cuts: bool = False
    origin: object | None = None

    @abstractmethod
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Choice name -> labels."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[Condition, nn.Module]]:
        """The modules that may run, each with the condition under which it runs."""

    @abstractmethod
    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        """The plain module under `choices`, with copied weights; `copies` is the memo of ``copy.deepcopy``."""

    def derivable(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The labels among `labels` that a genotype may have."""
        return tuple(label for label in labels if label not in self.search_only)

    def values(self, name: str) -> Iterable[Any]:
        """All values that a genotype may give to a name: labels, or sorted lists of labels."""
        labels = self.derivable(self.rows()[name])
        return labels if self.num_chosen == 1 else map(list, combinations(sorted(labels), self.num_chosen))

    def first(self, name: str) -> Any:
        """The value of a name in a reference architecture."""
        labels = self.derivable(self.rows()[name])
        return labels[0] if self.num_chosen == 1 else sorted(labels[: self.num_chosen])

    def draw(self, name: str, source: random.Random, row: Mapping[str, float] | None = None) -> Any:
        """A random value of a name; several labels are drawn one after another.

        `row` maps labels to probabilities. None: uniform over the labels that a genotype may have.
        """
        if row is None:
            labels = self.derivable(self.rows()[name])
            return sorted(source.sample(labels, self.num_chosen)) if self.num_chosen > 1 else source.choice(labels)
        left, drawn = dict(row), []
        for _ in range(self.num_chosen):
            # labels of probability 0 are drawn only if no other label is left
            drawn.append(source.choices(list(left), [weight + TINY for weight in left.values()])[0])
            del left[drawn[-1]]
        return sorted(drawn) if self.num_chosen > 1 else drawn[0]

    def at_least_one(self) -> list[tuple[str, str]]:
        """(name, label) pairs of which a genotype must have at least one; empty if there is no such rule."""
        return []

    def allows(self, choices: Mapping[str, Any]) -> bool:
        """Whether values that are valid one by one are valid together; True if a value is missing."""
        pairs = self.at_least_one()
        return (
            not pairs
            or any(name not in choices for name, _ in pairs)
            or any(choices[name] == label for name, label in pairs)
        )

    def check(self, choices: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a genotype for the names of this choice.

        Raises:
            ValueError: A value is missing or is not among the labels, or the values are not allowed together.
        """
        made = {}
        for name, labels in self.rows().items():
            if name not in choices:
                raise ValueError(f"genotype: no label for choice {name!r}")
            made[name] = check_value(
                name, labels, choices[name], num_chosen=self.num_chosen, search_only=self.search_only
            )
        if not self.allows(made):
            names, (label, *_) = zip(*self.at_least_one(), strict=True)
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise ValueError(f"genotype: none of {shown} is {label!r}; at least one must be")
        return made

    def complete(self, choices: Mapping[str, Any], probabilities: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """The values of this choice's names. The most probable valid labels replace labels that no genotype may have."""
        own = {name: choices[name] for name in self.rows() if name in choices}
        for name, value in own.items():
            if isinstance(value, str) and value in self.search_only:
                own[name] = max(self.derivable(self.rows()[name]), key=probabilities[name].__getitem__)
        if not self.allows(own):
            name, label = max(self.at_least_one(), key=lambda pair: probabilities[pair[0]][pair[1]])
            own[name] = label
        return own

    def branches(self, made: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any], list[nn.Module]]]:
        """The ways to decide the names that `made` leaves open.

        Yields:
            For each way: the number of architectures of this choice that it represents, the decided values, and the modules that then run.
        """
        (name,) = self.rows()
        parts = list(self.parts())
        for value in [made[name]] if name in made else self.values(name):
            chosen = set(labels_of(value))
            yield (
                1,
                {name: tuple(value) if self.num_chosen > 1 else value},
                [module for condition, module in parts if not chosen.isdisjoint(condition.get(name, chosen))],
            )

    def cost_terms(self, cost: Cost, args: tuple[Any, ...], *, exact: bool) -> Iterator[tuple[Condition, float]]:
        """The cost of a choice with `is_one_part`, as (condition, cost) terms of a sum.

        Args:
            cost: The cost of a plain module.
            args: The arguments of the choice.
            exact: Whether `cost` has no measurement noise.
        """
        raise NotImplementedError


class CandidateChoice(ChoiceModule):
    """A choice among parallel modules, with one label for each."""

    name: str
    labels: tuple[str, ...]
    candidates: nn.ModuleList

    def rows(self) -> dict[str, tuple[str, ...]]:
        return {self.name: self.labels}

    def parts(self) -> Iterator[tuple[Condition, nn.Module]]:
        for label, candidate in zip(self.labels, self.candidates, strict=True):
            yield {self.name: frozenset({label})}, candidate


def check_value(
    name: str, labels: Iterable[str], value: Any, *, num_chosen: int = 1, search_only: Iterable[str] = ()
) -> Any:
    """Checks and returns the value of a choice in a genotype: a label, or a sorted list of `num_chosen` labels."""
    allowed = [label for label in labels if label not in search_only]
    if num_chosen == 1:
        if isinstance(value, str) and value in allowed:
            return value
        if isinstance(value, str) and value in search_only:
            raise ValueError(f"genotype: choice {name!r}: {value!r} exists only while searching")
        raise ValueError(f"genotype: choice {name!r} has no candidate {value!r}; it has {', '.join(allowed)}")
    if not isinstance(value, (list, tuple)) or list(value) != sorted(set(value)) or len(value) != num_chosen:
        raise ValueError(
            f"genotype: choice {name!r} needs a sorted list of {num_chosen} of {', '.join(allowed)}, got {value!r}"
        )
    for label in value:
        check_value(name, allowed, label)
    return list(value)


def check_choice(name: str, candidates: Mapping[str, Any], search_only: Iterable[str] = ()) -> None:
    """Raises ValueError for a bad choice name, bad labels, fewer than two candidates, or no candidate that can be derived."""
    if not isinstance(name, str) or not CHOICE_NAME.fullmatch(name):
        raise ValueError(f"choice name {name!r} must match {CHOICE_NAME.pattern}")
    if not isinstance(candidates, Mapping):
        raise ValueError(f"choice {name!r}: candidates must map labels to modules, got {type(candidates).__name__}")
    if len(candidates) < 2:
        raise ValueError(f"choice {name!r} has {len(candidates)} candidate(s); a choice needs at least two")
    for label in candidates:
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            raise ValueError(f"choice {name!r}: label {label!r} must match {LABEL.pattern}")
    for label in search_only:
        if label not in candidates:
            raise ValueError(f"choice {name!r}: search_only names {label!r}, which is not a candidate")
    if set(candidates) <= set(search_only):
        raise ValueError(f"choice {name!r}: every candidate is search_only, so none could be derived")
