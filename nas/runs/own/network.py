"""How the network of a search in training code of the user is made again by commands that read its run folder."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nas.alpha import Alpha
from nas.io.errors import describe
from nas.io.rng import untouched_rng
from nas.runs.options import OWN_CODE
from nas.supernet.network_space import NetworkSpace
from nas.supernet.supernet import Supernet
from nas.supernet.width import check_reached, noting_numbers

_SPACE = f"{NetworkSpace.__module__}.{NetworkSpace.__qualname__}"
_PLAIN = (bool, int, float, str, type(None))


def supernet_of(network: nn.Module | Callable[[], nn.Module], alpha: Alpha | None) -> Supernet:
    """The supernet of a network that exists, or of what makes it; raises ValueError if there is nothing to search."""
    with noting_numbers() as made:
        network = network if isinstance(network, nn.Module) else network()
    if isinstance(network, DistributedDataParallel):
        raise ValueError("give nas.Searcher the network inside DistributedDataParallel; the loop calls the wrapper")
    supernet = Supernet(network, distribution=alpha)
    check_reached(made, supernet.choices)
    if not supernet.choices:
        raise ValueError(f"{type(network).__name__} has no choices: put nas.choice or another choice into it")
    return supernet


def described(space: NetworkSpace, supernet: Supernet, seed: int, **settings: Any) -> dict[str, Any]:
    """The content of config.yaml of a search in the network of `space`; `settings` are plain values, or parts of a search."""
    model = {name: value if _is_plain(value) else _spec(type(value), vars(value)) for name, value in settings.items()}
    return {OWN_CODE: True, "seed_everything": seed, "model": {"space": spec_of(space, supernet), **model}}


def space_of(network: nn.Module | Callable[[], nn.Module], part: str | None = None) -> NetworkSpace:
    """The space of a network that exists, or of what makes it.

    Lightning modules know their arguments if ``save_hyperparameters`` was called; other classes are tried without arguments.
    """
    if isinstance(network, nn.Module):
        return NetworkSpace(partial(type(network), **dict(getattr(network, "hparams", {}))), part)
    return NetworkSpace(network, part)


def spec_of(space: NetworkSpace, supernet: Supernet) -> dict[str, Any] | None:
    """Class path and arguments of the space; None, with a warning, if it cannot make the network of the supernet from plain values."""
    make: Any = space.make
    keywords = dict(make.keywords) if isinstance(make, partial) else {}
    target = make.func if isinstance(make, partial) else make
    reason = ""
    if isinstance(make, partial) and make.args:
        reason = "it is made with arguments by position"
    elif not (inspect.isroutine(target) or isinstance(target, type)) or "<" in target.__qualname__:
        reason = "it is not made by a class or function of a module"
    elif bad := [key for key, value in keywords.items() if not _is_plain(value)]:
        reason = f"its argument {bad[0]} is not a plain value"
    else:
        try:
            with untouched_rng():
                same = _shapes(space.network()) == _shapes(supernet.network)
        except Exception as error:  # a class of the user may raise anything
            reason = describe(error)
        else:
            reason = "" if same else "a new one has other choices or weights"
    if not reason:
        return {"class_path": _SPACE, "init_args": {"network": _spec(target, keywords), "part": space.part}}
    warnings.warn(
        f"the run folder cannot tell how {type(supernet.network).__name__} is made: {reason}; nas.load, nas export and nas evaluate of "
        "this run will not work. Give nas.Searcher a class, a functools.partial of it, or a function without arguments; "
        "a LightningModule needs plain arguments and save_hyperparameters()",
        stacklevel=2,
    )
    return None


def _shapes(network: nn.Module) -> dict[str, Any]:
    return {
        **{key: getattr(value, "shape", None) for key, value in network.state_dict().items()},
        "": Supernet(network).choices,
    }


def _spec(target: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Class path and plain arguments."""
    known = {
        key: value
        for key, value in arguments.items()
        if _is_plain(value) and not key.startswith("_") and key != "training"
    }
    return {"class_path": f"{_module_name(target)}.{target.__qualname__}", "init_args": known}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return isinstance(value, _PLAIN) or (isinstance(value, (list, tuple)) and all(map(_is_plain, value)))


def _module_name(target: Any) -> str:
    """The module under which a later command imports a class; a script that runs has its file name."""
    name: str = target.__module__
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return name
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return str(spec.name) if spec is not None else Path(file).stem if file else name
