"""gumbel-nas: neural architecture search for PyTorch.

Names are imported when first used, so that the command line starts without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.io.moved import follow_old_paths

__version__ = "0.1.0"

_EXPORTS = {
    "choice": "nas.supernet.choices",
    "gate": "nas.supernet.choices",
    "repeat": "nas.supernet.choices",
    "inputs": "nas.supernet.choices",
    "width": "nas.supernet.choices",
    "value": "nas.supernet.choices",
    "searching": "nas.supernet.choices",
    "replace": "nas.supernet.choices",
    "convert": "nas.conversion.convert",
    "compress": "nas.compression.compress",
    "scope": "nas.supernet.building",
    "architecture": "nas.supernet.building",
    "First": "nas.supernet.candidates",
    "Projection": "nas.supernet.candidates",
    "mixed_sum": "nas.supernet.mixed_op",
    "sample": "nas.supernet.sampling",
    "checkpoint": "nas.supernet.sampling",
    "MixedOp": "nas.supernet.mixed_op",
    "OpWeights": "nas.relaxations",
    "Supernet": "nas.supernet.supernet",
    "SearchSpace": "nas.supernet.search_space",
    "Genotype": "nas.genotype",
    "Searcher": "nas.searcher",
    "SearchModule": "nas.training.search_module",
    "RetrainModule": "nas.training.retrain_module",
    "search": "nas.runs.run",
    "retrain": "nas.runs.run",
    "experiment": "nas.runs.run",
    "sample_architectures": "nas.runs.standalone",
    "standalone_score": "nas.runs.standalone",
    "Run": "nas.runs.run",
    "ConfigSource": "nas.runs.options",
    "export_network": "nas.runs.stages.export",
    "load": "nas.runs.stages.load",
    "create_model": "nas.runs.stages.load",
}

__all__ = [*_EXPORTS, "__version__"]

if TYPE_CHECKING:
    from nas.compression.compress import compress as compress
    from nas.conversion.convert import convert as convert
    from nas.genotype import Genotype as Genotype
    from nas.relaxations import OpWeights as OpWeights
    from nas.runs.options import ConfigSource as ConfigSource
    from nas.runs.run import Run as Run
    from nas.runs.run import experiment as experiment
    from nas.runs.run import retrain as retrain
    from nas.runs.run import search as search
    from nas.runs.stages.export import export_network as export_network
    from nas.runs.stages.load import create_model as create_model
    from nas.runs.stages.load import load as load
    from nas.runs.standalone import sample_architectures as sample_architectures
    from nas.runs.standalone import standalone_score as standalone_score
    from nas.searcher import Searcher as Searcher
    from nas.supernet.building import architecture as architecture
    from nas.supernet.building import scope as scope
    from nas.supernet.candidates import First as First
    from nas.supernet.candidates import Projection as Projection
    from nas.supernet.choices import choice as choice
    from nas.supernet.choices import gate as gate
    from nas.supernet.choices import inputs as inputs
    from nas.supernet.choices import repeat as repeat
    from nas.supernet.choices import replace as replace
    from nas.supernet.choices import searching as searching
    from nas.supernet.choices import value as value
    from nas.supernet.choices import width as width
    from nas.supernet.mixed_op import MixedOp as MixedOp
    from nas.supernet.mixed_op import mixed_sum as mixed_sum
    from nas.supernet.sampling import checkpoint as checkpoint
    from nas.supernet.sampling import sample as sample
    from nas.supernet.search_space import SearchSpace as SearchSpace
    from nas.supernet.supernet import Supernet as Supernet
    from nas.training.retrain_module import RetrainModule as RetrainModule
    from nas.training.search_module import SearchModule as SearchModule


follow_old_paths()


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return _bind(name, getattr(import_module(_EXPORTS[name]), name))
    if not name.startswith("_"):
        try:
            return import_module(f"nas.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"nas.{name}":
                raise
    raise AttributeError(f"module 'nas' has no attribute {name!r}")


def _bind(name: str, value: Any) -> Any:
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
