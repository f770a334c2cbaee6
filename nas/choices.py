"""Writing choices into a network, and building the network with the choices made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

from nas.genotype import Genotype
from nas.mixed_op import MixedOp, check_choice

Candidates = Mapping[str, nn.Module | Callable[[], nn.Module]]

_SCOPE: ContextVar[tuple[str, ...]] = ContextVar("nas_scope", default=())


class _Build:
    """A build under `nas.architecture`: the choices to make, and those made so far."""

    def __init__(self, choices: Mapping[str, Any]) -> None:
        self.choices = choices
        self.uses: dict[str, bool] = {}  # name -> shared
        self.made: list[tuple[str, nn.Module]] = []
        self.open: list[_Unmade] = []

    def make(self, name: str, candidates: Candidates, shared: bool) -> nn.Module:
        if name in self.uses and not (shared and self.uses[name]):
            raise ValueError(f"choice {name!r} is used twice; say shared=True at every use if that is meant")
        self.uses[name] = shared
        if name not in self.choices:
            self.open.append(_Unmade(name))
            return self.open[-1]
        label = self.choices[name]
        if not isinstance(label, str) or label not in candidates:
            raise ValueError(f"choice {name!r} has no candidate {label!r}; it has {', '.join(candidates)}")
        for other, candidate in candidates.items():
            if other != label and isinstance(candidate, nn.Module):
                self._drop(candidate)
        chosen = _build_candidate(candidates[label])
        self.made.append((name, chosen))
        return chosen

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


_BUILD: ContextVar[_Build | None] = ContextVar("nas_build", default=None)


def choice(name: str, candidates: Candidates, *, shared: bool = False) -> nn.Module:
    """One place with several candidate ops.

    While searching it is a :class:`MixedOp`. Under :func:`architecture` it is the chosen candidate itself, and factories of the others
    are never called.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        candidates: label -> module, or label -> zero-argument factory of one; at least two. Labels: letters, digits and ``_ . + -``.
        shared: Several choices of this name are one decision (cells); their labels must agree.

    Raises:
        ValueError: A bad name or label, fewer than two candidates, or, under a genotype, a choice that it does not fit.
    """
    name = ".".join((*_SCOPE.get(), name))
    check_choice(name, candidates)
    build = _BUILD.get()
    if build is not None:
        return build.make(name, candidates, shared)
    built = {label: _build_candidate(candidate) for label, candidate in candidates.items()}
    return MixedOp(name, built, shared=shared)


def _build_candidate(candidate: Any) -> Any:
    if isinstance(candidate, nn.Module) or not callable(candidate):
        return candidate
    return candidate()


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
    build = _Build(choices)
    token = _BUILD.set(build)
    try:
        yield
    except AttributeError:
        build.check()  # a missing label may be why the attribute was not there
        raise
    finally:
        _BUILD.reset(token)
    build.check()


def replace(model: nn.Module, choices: Mapping[str, Candidates]) -> nn.Module:
    """Puts choices into an existing, possibly pretrained model, in place.

    Args:
        model: Any module.
        choices: Path of a submodule, as in ``model.named_modules()`` -> candidates (the module that stands there may be one of them).
            The path is also the choice's name.

    Returns:
        `model`, for chaining.

    Raises:
        ValueError: A path that does not exist, or bad candidates; the model is then unchanged.
    """
    paths = dict(model.named_modules())
    for path in choices:
        if not path or path not in paths:
            raise ValueError(f"nas.replace: the model has no submodule {path!r}")
    made = {path: choice(path, candidates) for path, candidates in choices.items()}
    for path, module in made.items():
        parent, _, attribute = path.rpartition(".")
        setattr(paths[parent], attribute, module)
    return model
