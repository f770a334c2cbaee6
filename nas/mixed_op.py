"""One place with K candidate ops, and how the op weights reach it."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from nas.ops import mix
from nas.ops.mix import weighted
from nas.relaxations import Sampler

LABEL = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
CHOICE_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,256}")


@dataclass(frozen=True)
class Context:
    """What one forward of a supernet hands to the choices inside it."""

    rows: Mapping[str, int]
    weights: tuple[Tensor, ...]
    stacked: Tensor
    active: list[list[int]] | None
    sampler: Sampler | None
    checkpoint_candidates: bool


_CONTEXT: ContextVar[Context | None] = ContextVar("nas_context", default=None)


@contextmanager
def active_context(context: Context | None) -> Iterator[None]:
    """Makes `context` the one that choices see; what was there before returns on exit, also on an error."""
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
    context = _CONTEXT.get()
    if context is None or name not in context.rows:
        where = "outside a supernet" if context is None else "in a supernet that does not own it"
        raise RuntimeError(
            f"choice {name!r} was called {where}: call nas.Supernet(network)(..., op_weights=...), with the choice "
            "registered as a submodule of the network. Under activation checkpointing use nas.checkpoint."
        )
    return context


class ChoiceModule(nn.Module, ABC):
    """A module at which something is decided: one row of alpha for each name it gives.

    Attributes:
        shared: Whether other modules may give the same names, and so use the same logits.
    """

    shared: bool

    @abstractmethod
    def rows(self) -> dict[str, tuple[str, ...]]:
        """Choice name -> labels."""

    @abstractmethod
    def branches(self, made: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str], list[nn.Module]]]:
        """The ways to decide what `made` leaves open: how many each stands for, what it decides, and the modules then entered."""

    @abstractmethod
    def derived(self, choices: Mapping[str, str], copies: dict[int, Any]) -> nn.Module:
        """The plain module under `choices`, weights copied; `copies` is the memo of ``copy.deepcopy``."""


class MixedOp(ChoiceModule):
    """One choice: its output is the op-weighted sum of its candidates' outputs.

    Made by :func:`nas.choice`. It holds no op weights: they come from the enclosing :class:`nas.Supernet` for the length of one forward,
    so that interleaved forwards, deep copies and activation checkpointing are exact.

    Attributes:
        name: The choice's name.
        labels: K labels, in the order of `candidates`.
        candidates: K modules.
        shared: Whether other MixedOps may use the same name, and so the same logits.
    """

    def __init__(self, name: str, candidates: Mapping[str, nn.Module], *, shared: bool = False) -> None:
        """Checks and stores the candidates.

        Args:
            name: The choice's name; letters, digits and ``_ . + -``.
            candidates: label -> module, at least two.
            shared: Allow several choices of this name; they then have one row of alpha.

        Raises:
            ValueError: A bad name or label, or fewer than two candidates.
        """
        super().__init__()
        check_choice(name, candidates)
        for label, candidate in candidates.items():
            if not isinstance(candidate, nn.Module):
                raise ValueError(
                    f"choice {name!r}: candidate {label!r} must be an nn.Module or a factory of one, "
                    f"got {type(candidate).__name__}"
                )
        self.name = name
        self.labels = tuple(candidates)
        self.candidates = nn.ModuleList(candidates.values())
        self.shared = shared
        self._shapes_checked = False

    def extra_repr(self) -> str:
        return f"name={self.name!r}, labels={list(self.labels)}"

    def rows(self) -> dict[str, tuple[str, ...]]:
        return {self.name: self.labels}

    def branches(self, made: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str], list[nn.Module]]]:
        for label in [made[self.name]] if self.name in made else self.labels:
            yield 1, {self.name: label}, [self.candidates[self.labels.index(label)]]

    def derived(self, choices: Mapping[str, str], copies: dict[int, Any]) -> nn.Module:
        chosen: nn.Module = copy.deepcopy(self.candidates[self.labels.index(choices[self.name])], copies)
        return chosen

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Mixes the candidates' outputs for the same arguments.

        Raises:
            RuntimeError: Called outside the forward of the supernet that owns this choice.
            ValueError: The candidates' outputs differ in shape, or are not tensors.
        """
        context = context_of(self.name)
        row = context.rows[self.name]
        indices, weights = self._running(context.weights[row], context.active[row] if context.active else None)
        if context.checkpoint_candidates:
            result = self._checkpointed(indices, weights, args, kwargs)
        else:
            outputs = [self.candidates[k](*args, **kwargs) for k in indices]
            self._check_outputs(indices, outputs)
            result = mix(outputs, weights)
        if not self._shapes_checked:
            self._check_idle(indices, result, args, kwargs)
            self._shapes_checked = True
        return result

    def _running(self, weights: Tensor, active: list[int] | None) -> tuple[list[int], Tensor]:
        """The candidates to run, and their weights (..., n)."""
        if active is None:
            return list(range(len(self.labels))), weights[..., : len(self.labels)]
        if len(active) == 1:  # a view; a list index would copy
            return active, weights[..., active[0] : active[0] + 1]
        return active, weights[..., active]

    def _checkpointed(self, indices: list[int], weights: Tensor, args: tuple, kwargs: dict) -> Tensor:
        def run(candidate: nn.Module, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return weighted(candidate(*args, **kwargs), weight)

        terms = [
            checkpoint(run, self.candidates[k], weight, *args, **kwargs)
            for k, weight in zip(indices, weights.unbind(-1), strict=True)
        ]
        self._check_outputs(indices, terms)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _check_outputs(self, indices: list[int], outputs: list[Any]) -> None:
        for k, output in zip(indices, outputs, strict=True):
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"choice {self.name!r}: candidate {self.labels[k]!r} must return one tensor, "
                    f"got {type(output).__name__}"
                )
        if any(output.shape != outputs[0].shape for output in outputs):
            shapes = {self.labels[k]: tuple(o.shape) for k, o in zip(indices, outputs, strict=True)}
            raise _shape_error(self.name, shapes)

    @torch.no_grad()
    def _check_idle(self, indices: list[int], result: Tensor, args: tuple, kwargs: dict) -> None:
        """Runs the candidates that were not sampled, once, so that a wrong shape is noticed at the first forward.

        In eval mode and on forked random state: it leaves no trace in buffers or in later draws.
        """
        idle = [k for k in range(len(self.labels)) if k not in indices]
        if not idle or torch.compiler.is_compiling():
            return
        shapes = {self.labels[k]: tuple(result.shape) for k in indices}
        devices = [result.device] if result.device.type == "cuda" else []
        modes = [(module, module.training) for module in self.modules()]
        with torch.random.fork_rng(devices=devices), active_context(_repeatable(_CONTEXT.get())()):
            try:
                for k in idle:
                    output = self.candidates[k].eval()(*args, **kwargs)
                    self._check_outputs([k], [output])
                    shapes[self.labels[k]] = tuple(output.shape)
            finally:
                for module, training in modes:
                    module.training = training
        if len(set(shapes.values())) > 1:
            raise _shape_error(self.name, shapes)


def _shape_error(name: str, shapes: Mapping[str, tuple[int, ...]]) -> ValueError:
    text = ", ".join(f"{label}: {shape}" for label, shape in shapes.items())
    return ValueError(f"choice {name!r}: candidate outputs differ in shape ({text})")


def check_choice(name: str, candidates: Mapping[str, Any]) -> None:
    """Raises ValueError for a bad choice name, bad labels or fewer than two candidates."""
    if not isinstance(name, str) or not CHOICE_NAME.fullmatch(name):
        raise ValueError(f"choice name {name!r} must match {CHOICE_NAME.pattern}")
    if not isinstance(candidates, Mapping):
        raise ValueError(f"choice {name!r}: candidates must map labels to modules, got {type(candidates).__name__}")
    if len(candidates) < 2:
        raise ValueError(f"choice {name!r} has {len(candidates)} candidate(s); a choice needs at least two")
    for label in candidates:
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            raise ValueError(f"choice {name!r}: label {label!r} must match {LABEL.pattern}")


def _repeatable(context: Context | None) -> Callable[[], Context | None]:
    """A factory of copies of `context` that draw, each from a generator of its own, what `context` would draw from now on."""
    generator = context.sampler.generator if context and context.sampler else None
    if context is None or context.sampler is None or generator is None:
        return lambda: context
    sampler, device, state = context.sampler, generator.device, generator.get_state()

    def repeated() -> Context:
        again = torch.Generator(device)
        again.set_state(state)
        return replace(context, sampler=sampler._replace(generator=again))

    return repeated


def checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Activation checkpointing that choices inside `function` survive.

    Like ``torch.utils.checkpoint.checkpoint(use_reentrant=False)``, but the recomputation in the backward pass sees the op weights, and
    draws the :func:`sample` noise, of the forward that it repeats.

    Args:
        function: A module or function.
        *args: Passed to it.
        **kwargs: Passed to it.
    """
    context = _CONTEXT.get()
    repeat = _repeatable(context)
    first = True

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal first
        here = context if first else repeat()
        first = False
        with active_context(here):
            return function(*args, **kwargs)

    return torch_checkpoint(run, *args, use_reentrant=False, **kwargs)


def sample(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """A relaxed categorical sample of logits that the network computes itself (assignments, tokens, masks).

    Drawn with the enclosing supernet's relaxation, tau and generator, so it anneals and resumes with the search.

    Args:
        logits: Unnormalised log-probabilities.
        mask: True where a category exists.

    Shape:
        - logits, result: (..., K)

    Raises:
        RuntimeError: Called outside a supernet's forward, or in one whose op weights did not come from ``Supernet.sample``.
    """
    context = _CONTEXT.get()
    if context is None or context.sampler is None:
        raise RuntimeError(
            "nas.sample was called outside a supernet, or with op weights that no relaxation drew: "
            "use op_weights=supernet.sample(relaxation, tau, generator=...)"
        )
    relaxation, tau, generator = context.sampler
    return relaxation(logits, tau, mask=mask, generator=generator)
