"""gumbel-nas: neural architecture search for PyTorch.

Names are imported when first used, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "choice": "nas.choices",
    "gate": "nas.choices",
    "repeat": "nas.choices",
    "inputs": "nas.choices",
    "width": "nas.choices",
    "searching": "nas.choices",
    "replace": "nas.choices",
    "scope": "nas.building",
    "architecture": "nas.building",
    "Projection": "nas.candidates",
    "mixed_sum": "nas.mixed_op",
    "sample": "nas.mixed_op",
    "checkpoint": "nas.mixed_op",
    "MixedOp": "nas.mixed_op",
    "OpWeights": "nas.relaxations",
    "Supernet": "nas.supernet",
    "SearchSpace": "nas.search_space",
    "Genotype": "nas.genotype",
    "SearchModule": "nas.search_module",
    "RetrainModule": "nas.retrain_module",
    "export_network": "nas.runs.export",
    "load": "nas.runs.load",
    "create_model": "nas.runs.load",
}

__all__ = [*_EXPORTS, "__version__"]

if TYPE_CHECKING:
    from nas.building import architecture as architecture
    from nas.building import scope as scope
    from nas.candidates import Projection as Projection
    from nas.choices import choice as choice
    from nas.choices import gate as gate
    from nas.choices import inputs as inputs
    from nas.choices import repeat as repeat
    from nas.choices import replace as replace
    from nas.choices import searching as searching
    from nas.choices import width as width
    from nas.genotype import Genotype as Genotype
    from nas.mixed_op import MixedOp as MixedOp
    from nas.mixed_op import checkpoint as checkpoint
    from nas.mixed_op import mixed_sum as mixed_sum
    from nas.mixed_op import sample as sample
    from nas.relaxations import OpWeights as OpWeights
    from nas.retrain_module import RetrainModule as RetrainModule
    from nas.runs.export import export_network as export_network
    from nas.runs.load import create_model as create_model
    from nas.runs.load import load as load
    from nas.search_module import SearchModule as SearchModule
    from nas.search_space import SearchSpace as SearchSpace
    from nas.supernet import Supernet as Supernet


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return _bind(name, getattr(import_module(_EXPORTS[name]), name))
    raise AttributeError(f"module 'nas' has no attribute {name!r}")


def _bind(name: str, value: Any) -> Any:
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
