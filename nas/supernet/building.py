"""Building a network with its choices made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from nas.genotype import Genotype, labels_of
from nas.supernet.base import check_value
from nas.supernet.candidates import keep_input
from nas.supernet.gate import LABELS, Factory, gate_names, kept_elements, plain

Candidates = Mapping[str, nn.Module | Callable[[], nn.Module]]

_SCOPE: ContextVar[tuple[str, ...]] = ContextVar("nas_scope", default=())


class Build:
    """A build under `nas.architecture`: the choices to make, and those made so far."""

    def __init__(self, choices: Mapping[str, Any]) -> None:
        self.choices = choices
        self.uses: dict[str, bool] = {}  # name -> shared
        self.made: list[tuple[str, nn.Module]] = []
        self.open: list[_Unmade] = []

    def value(
        self, name: str, labels: Iterable[str], shared: bool, *, num_chosen: int = 1, search_only: Sequence[str] = ()
    ) -> Any:
        """What the genotype gives to a choice, or a stand-in where it gives nothing."""
        if name in self.uses and not (shared and self.uses[name]):
            raise ValueError(f"choice {name!r} is used twice; say shared=True at every use if that is meant")
        self.uses[name] = shared
        if name not in self.choices:
            self.open.append(_Unmade(name))
            return self.open[-1]
        return check_value(name, labels, self.choices[name], num_chosen=num_chosen, search_only=search_only)

    def gate(self, name: str, factory: Factory, elements: Sequence[str], dim: int, shared: bool) -> nn.Module:
        """The plain form of a gate, built for what is kept."""
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
        """The plain module of a choice.

        Args:
            name: The choice's name.
            labels: Its labels; where they name modules, choices inside of those that are not chosen are forgotten.
            make: Makes the module of a label, or of a sorted list of labels.
            shared: Whether other uses of the name are the same decision.
            num_chosen: How many labels are chosen.
            search_only: Labels that a genotype cannot have.
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

    def width(self, name: str, sizes: Sequence[int], shared: bool) -> int:
        """The chosen size."""
        label = self.value(name, [str(size) for size in sizes], shared)
        if isinstance(label, _Unmade):
            return max(sizes)
        self.made.append((name, nn.Identity()))  # it stands nowhere, so nothing can drop it
        return int(label)

    def _drop(self, candidate: nn.Module) -> None:
        """Forgets choices inside a candidate that was built beforehand and not chosen."""
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
    """Stands for a choice that the genotype does not name, until it is known whether that matters."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


_BUILD: ContextVar[Build | None] = ContextVar("nas_build", default=None)


def present_build() -> Build | None:
    """The build under a genotype that is going on; None while choices stay open."""
    return _BUILD.get()


def scoped(name: str) -> str:
    """A choice's whole name: after the enclosing scopes."""
    return ".".join((*_SCOPE.get(), name))


def build_candidate(candidate: Any) -> Any:
    """A candidate, made where it is a factory."""
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
        ValueError: On leaving the block, when the genotype misses a choice that was reached or names one that was not.
    """
    choices = genotype.choices if isinstance(genotype, Genotype) else dict(genotype)
    build = Build(choices)
    token = _BUILD.set(build)
    try:
        yield
    except AttributeError:
        build.check()  # a missing label may be why the attribute was not there
        raise
    finally:
        _BUILD.reset(token)
    build.check()
