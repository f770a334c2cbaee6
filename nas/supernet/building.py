"""Building plain networks: each choice is made when it is constructed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import nn

from nas.genotype import Genotype, labels_of
from nas.supernet.base import check_value
from nas.supernet.candidates import keep_input
from nas.supernet.gate import LABELS, Factory, gate_names, kept_elements, plain

Candidates = Mapping[str, nn.Module | Callable[[], nn.Module]]
Number = TypeVar("Number", int, float)

_SCOPE: ContextVar[tuple[str, ...]] = ContextVar("nas_scope", default=())


class Build:
    """A build under `nas.architecture`: the genotype's choices, and the choices made so far."""

    def __init__(self, choices: Mapping[str, Any]) -> None:
        self.choices = choices
        self.uses: dict[str, bool] = {}  # name -> shared
        self.made: list[tuple[str, nn.Module]] = []
        self.open: list[_Unmade] = []

    def value(
        self, name: str, labels: Iterable[str], shared: bool, *, num_chosen: int = 1, search_only: Sequence[str] = ()
    ) -> Any:
        """The genotype's value for a choice, or a placeholder if the genotype has none."""
        if name in self.uses and not (shared and self.uses[name]):
            raise ValueError(
                f"choice {name!r} is used twice; set shared=True at every use if the uses are one decision"
            )
        self.uses[name] = shared
        if name not in self.choices:
            self.open.append(_Unmade(name))
            return self.open[-1]
        return check_value(name, labels, self.choices[name], num_chosen=num_chosen, search_only=search_only)

    def gate(self, name: str, factory: Factory, elements: Sequence[str], dim: int, shared: bool) -> nn.Module:
        """The plain form of a gate, built for the kept elements."""
        names = gate_names(name, elements)
        labels = [self.value(row, LABELS, shared) for row in names]
        if unmade := [label for label in labels if isinstance(label, _Unmade)]:
            return nn.ModuleList(unmade)
        kept = kept_elements(name, labels)
        module = plain(factory(len(kept)), kept, len(names), dim)
        self.made += [(row, module) for row in names]
        return module

    def plain(
        self,
        name: str,
        labels: Iterable[str] | Candidates,
        make: Callable[[Any], nn.Module],
        shared: bool = False,
        *,
        num_chosen: int = 1,
        search_only: Sequence[str] = (),
    ) -> nn.Module:
        """The plain module of a choice, made by `make` from the chosen label or the sorted list of chosen labels.

        If `labels` maps labels to modules, choices inside unchosen modules are forgotten.
        """
        value = self.value(name, labels, shared, num_chosen=num_chosen, search_only=search_only)
        if isinstance(value, _Unmade):
            return value
        for label, candidate in labels.items() if isinstance(labels, Mapping) else ():
            if label not in labels_of(value) and isinstance(candidate, nn.Module):
                self._drop(candidate)
        module = make(value)
        self.made.append((name, module))
        return module

    def number(self, name: str, numbers: Mapping[str, Number], shared: bool) -> Number:
        """The chosen number; `numbers` maps labels to numbers, the largest last."""
        label = self.value(name, numbers, shared)
        if isinstance(label, _Unmade):
            return list(numbers.values())[-1]
        self.made.append((name, nn.Identity()))  # the module is in no network, so nothing can drop it
        return numbers[label]

    def _drop(self, candidate: nn.Module) -> None:
        """Forgets choices inside a candidate that was built but not chosen."""
        inside = {id(module) for module in candidate.modules()}
        self.made = [(name, module) for name, module in self.made if id(module) not in inside]
        self.open = [unmade for unmade in self.open if id(unmade) not in inside]

    def check(self) -> None:
        if self.open:
            names = ", ".join(repr(name) for name in sorted({unmade.name for unmade in self.open}))
            raise ValueError(f"genotype: no label for choice {names}")
        made = {name for name, _ in self.made}
        extra = [name for name in self.choices if name not in made]
        if extra:
            raise ValueError(f"genotype: unknown or inactive choice {extra[0]!r}")


class _Unmade(nn.Module):
    """Placeholder for a choice that the genotype does not name: an error, unless it is inside an unchosen candidate."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


_BUILD: ContextVar[Build | None] = ContextVar("nas_build", default=None)


def present_build() -> Build | None:
    """The current build under a genotype; None if choices stay open."""
    return _BUILD.get()


def scoped(name: str) -> str:
    """The full name of a choice: the enclosing scopes, then `name`."""
    return ".".join((*_SCOPE.get(), name))


def build_candidate(candidate: Any) -> Any:
    """A candidate module; a factory is called."""
    made = candidate if isinstance(candidate, nn.Module) or not callable(candidate) else candidate()
    return keep_input(made) if isinstance(made, nn.Module) else made


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Prefixes the names of all choices made inside with ``name.``, for blocks that are built several times."""
    token = _SCOPE.set((*_SCOPE.get(), name))
    try:
        yield
    finally:
        _SCOPE.reset(token)


@contextmanager
def architecture(genotype: Genotype | Mapping[str, Any]) -> Iterator[None]:
    """Builds networks with the choices made: ``with nas.architecture(genotype): net = space.network()``.

    Args:
        genotype: A Genotype, or its choices (name -> label).

    Raises:
        ValueError: At the end of the block: the genotype lacks a choice that was reached, or names a choice that was not reached.
    """
    choices = genotype.choices if isinstance(genotype, Genotype) else dict(genotype)
    build = Build(choices)
    token = _BUILD.set(build)
    try:
        yield
    except AttributeError:
        build.check()  # a missing label may be the reason for the missing attribute
        raise
    finally:
        _BUILD.reset(token)
    build.check()
