"""Writing choices into a network, and building the network with the choices made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from torch import nn

from nas.gates import DROP, KEEP, LABELS, Factory, Gate, gate_names, kept_elements, plain
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

    def label(self, name: str, labels: Iterable[str], shared: bool) -> str | _Unmade:
        """The label that the genotype gives to a choice, or a stand-in where it gives none."""
        if name in self.uses and not (shared and self.uses[name]):
            raise ValueError(f"choice {name!r} is used twice; say shared=True at every use if that is meant")
        self.uses[name] = shared
        if name not in self.choices:
            self.open.append(_Unmade(name))
            return self.open[-1]
        label = self.choices[name]
        if not isinstance(label, str) or label not in labels:
            raise ValueError(f"choice {name!r} has no candidate {label!r}; it has {', '.join(labels)}")
        return label

    def gate(self, name: str, factory: Factory, elements: Sequence[str], dim: int, shared: bool) -> nn.Module:
        """The plain form of a gate, built for what is kept."""
        names = gate_names(name, elements)
        labels = [self.label(row, LABELS, shared) for row in names]
        if unmade := [label for label in labels if isinstance(label, _Unmade)]:
            return nn.ModuleList(unmade)
        kept = kept_elements(name, cast(list[str], labels))
        module = plain(factory(len(kept)), kept, len(names), dim)
        self.made += [(row, module) for row in names]
        return module

    def make(self, name: str, candidates: Candidates, shared: bool) -> nn.Module:
        label = self.label(name, candidates, shared)
        if isinstance(label, _Unmade):
            return label
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


def gate(
    name: str,
    module: nn.Module | Callable[..., nn.Module],
    *,
    size: int | None = None,
    elements: Sequence[str] | None = None,
    dim: int = 1,
    drop: nn.Module | Callable[[], nn.Module] = nn.Identity,
    shared: bool = False,
) -> nn.Module:
    """Something kept or dropped: a module, or each element of a module's input.

    ``nas.gate("block3", block)`` keeps or skips a layer: a choice of the labels ``drop`` and ``keep``. For a branch that is added to
    something, say ``drop=nas.candidates.Zero``.

    ``nas.gate("features", lambda n: nn.Linear(n, 16), size=30)`` keeps or drops each input feature (``dim=1``; or channels): choices
    ``features.0`` to ``features.29``. While searching, the input is multiplied by the relaxed samples; derived, a plain slice feeds a
    module that `module` makes for the number kept. That module must make nothing of a dropped element's zeros: let it begin with the layer
    that sums over elements (a linear layer, a convolution), not with a norm or a bias of its own for each.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        module: What is kept or dropped; with `size` or `elements`, a function from the number of kept elements to the module that reads
            them.
        size: Number of elements, named 0, 1, ...
        elements: Their names instead.
        dim: Dimension of the elements in the input.
        drop: What stands there when a whole module is dropped; of the same output shape.
        shared: Several gates of this name are one decision.

    Raises:
        ValueError: A bad name, both or neither of what `module` needs, or, under a genotype, a gate that it does not fit.
    """
    if size is None and elements is None:
        return choice(name, {DROP: drop, KEEP: module}, shared=shared)
    if size is not None and elements is not None:
        raise ValueError(f"gate {name!r}: give size or elements, not both")
    if isinstance(module, nn.Module):
        raise ValueError(
            f"gate {name!r}: gating elements needs a function from the number kept to a module, got a module"
        )
    named = [str(i) for i in range(size)] if size is not None else list(cast(Sequence[str], elements))
    name = ".".join((*_SCOPE.get(), name))
    build = _BUILD.get()
    if build is not None:
        return build.gate(name, module, named, dim, shared)
    return Gate(name, module, named, dim=dim, shared=shared)


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
    paths = dict(model.named_modules(remove_duplicate=False))
    for path in choices:
        if not path or path not in paths:
            raise ValueError(f"nas.replace: the model has no submodule {path!r}")
        for other in choices:
            if path.startswith(f"{other}."):
                raise ValueError(f"nas.replace: {path!r} lies inside {other!r}, which is replaced too")
    made = {path: choice(path, candidates) for path, candidates in choices.items()}
    for path, module in made.items():
        parent, _, attribute = path.rpartition(".")
        setattr(paths[parent], attribute, module)
    return model
