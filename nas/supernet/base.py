"""What every place of decision has in common, and how the op weights reach it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.genotype import CHOICE_NAME, LABEL
from nas.relaxations import Sampler
from nas.supernet.fused.mixture import Folded

Literals = Mapping[str, frozenset[str]]
"""Choice name -> labels: true of a genotype that has one of these labels at each of these choices."""


@dataclass(frozen=True)
class Context:
    """What one forward of a supernet hands to the choices inside it."""

    rows: Mapping[str, int]
    stacked: Tensor
    active: list[list[int]] | None
    sampler: Sampler | None
    checkpoint_candidates: bool
    folded: Folded | None = None
    unweighted: bool = False
    used: set[str] | None = None


_CONTEXT: ContextVar[Context | None] = ContextVar("nas_context", default=None)


class _Traced:
    """The context while torch.compile traces, which cannot set a ContextVar; None again once it has."""

    def __init__(self) -> None:
        self.context: Context | None = None


_TRACED = _Traced()


@contextmanager
def active_context(context: Context | None) -> Iterator[None]:
    """Makes `context` the one that choices see; what was there before returns on exit, also on an error."""
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
    """The context of the enclosing supernet's forward.

    Raises:
        RuntimeError: There is none, or its supernet does not own the choice.
    """
    context = present_context()
    if context is None or name not in context.rows:
        where = "outside a supernet" if context is None else "in a supernet that does not own it"
        raise RuntimeError(
            f"choice {name!r} was called {where}: call nas.Supernet(network)(..., op_weights=...), with the choice "
            "registered as a submodule of the network. Under activation checkpointing use nas.checkpoint."
        )
    if context.used is not None:
        context.used.add(name)
    return context


def present_context() -> Context | None:
    """What the enclosing supernet's forward handed over; None outside of one."""
    if torch.compiler.is_compiling() and _TRACED.context is not None:
        return _TRACED.context
    return _CONTEXT.get()


class ChoiceModule(nn.Module, ABC):
    """A module at which something is decided: one row of alpha for each name it gives.

    Attributes:
        shared: Whether other modules may give the same names, and so use the same logits.
        num_chosen: How many labels a genotype gives to each name; above 1 it is a sorted list, and the row is not drawn.
        search_only: Labels that compete while searching but cannot be in a genotype.
        learned: Whether the rows of alpha mean anything; otherwise they rest.
    """

    shared: bool
    num_chosen: int = 1
    search_only: frozenset[str] = frozenset()
    learned: bool = True

    @abstractmethod
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Choice name -> labels."""

    @abstractmethod
    def branches(self, made: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any], list[nn.Module]]]:
        """The ways to decide what `made` leaves open: how many each stands for, what it decides, and the modules then entered."""

    @abstractmethod
    def parts(self) -> Iterator[tuple[Literals, nn.Module]]:
        """The modules that may be entered, each with the labels under which it is."""

    @abstractmethod
    def derived(self, choices: Mapping[str, Any], copies: dict[int, Any]) -> nn.Module:
        """The plain module under `choices`, weights copied; `copies` is the memo of ``copy.deepcopy``."""

    def derivable(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Those of `labels` that a genotype may have."""
        return tuple(label for label in labels if label not in self.search_only)


def check_value(
    name: str, labels: Iterable[str], value: Any, *, num_chosen: int = 1, search_only: Iterable[str] = ()
) -> Any:
    """What a genotype gives to a choice, checked: a label, or a sorted list of `num_chosen`.

    Raises:
        ValueError: It is something else.
    """
    allowed = [label for label in labels if label not in search_only]
    if num_chosen == 1:
        if isinstance(value, str) and value in allowed:
            return value
        if isinstance(value, str) and value in search_only:
            raise ValueError(f"genotype: choice {name!r}: {value!r} is there while searching only")
        raise ValueError(f"genotype: choice {name!r} has no candidate {value!r}; it has {', '.join(allowed)}")
    if not isinstance(value, (list, tuple)) or list(value) != sorted(set(value)) or len(value) != num_chosen:
        raise ValueError(
            f"genotype: choice {name!r} needs a sorted list of {num_chosen} of {', '.join(allowed)}, got {value!r}"
        )
    for label in value:
        check_value(name, allowed, label)
    return list(value)


def check_choice(name: str, candidates: Mapping[str, Any], search_only: Iterable[str] = ()) -> None:
    """Raises ValueError for a bad choice name, bad labels, or fewer than two candidates (of those that can be derived, one)."""
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
            raise ValueError(f"choice {name!r}: search_only names {label!r}, which is no candidate")
    if set(candidates) <= set(search_only):
        raise ValueError(f"choice {name!r}: every candidate is search_only, so none could be derived")
