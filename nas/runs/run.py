"""The stages in Python: a search as one call, and everything that can be done with its run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from nas.derive import Searched
from nas.export.formats import DEFAULT
from nas.export.write import ExportOptions
from nas.genotype import Genotype
from nas.runs.build import restore_search
from nas.runs.config import Experiment, load_experiment
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.options import ConfigSource
from nas.runs.stages import search as search_stage
from nas.runs.stages.derive import Strategy, derive_run
from nas.runs.stages.evaluate import evaluate_run
from nas.runs.stages.export import export_run
from nas.runs.stages.load import load
from nas.runs.stages.lookup import lookup_run
from nas.runs.stages.retrain import retrain_genotype, retrain_run
from nas.runs.trainer import prepare_machine

Config = str | Path | Mapping[str, Any] | ConfigSource
"""A YAML file, its content, or files with ``--KEY=VALUE`` words."""


class Run:
    """A run folder: of a search, or of a retraining.

    Args:
        path: The run folder.
        trust_modules: Your own modules that its configuration may name.

    Raises:
        UsageError: There is no run folder at the path.
    """

    def __init__(self, path: str | Path, *, trust_modules: Sequence[str] = ()) -> None:
        self._folder, self._trusted = RunFolder.open(path), tuple(trust_modules)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self._folder.finished

    @property
    def genotype(self) -> Genotype:
        """The architecture; raises UsageError before the end of the search."""
        return self._folder.read_genotype()

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json; raises UsageError if the run is not finished."""
        return self._folder.read_summary()

    @cached_property
    def experiment(self) -> Experiment:
        """The configuration of the run's stage, with its data."""
        return load_experiment(self._folder.source(self._trusted), stage=self._folder.stage)

    def network(self) -> nn.Module:
        """The retrained network, otherwise the derived network with inherited weights; see :func:`nas.load`."""
        return load(self.path, trust_modules=self._trusted)

    def searched(self) -> Searched:
        """The trained supernet and the data, the input of derive strategies; raises ValueError if no checkpoint is intact."""
        module = restore_search(self._folder, self.experiment)
        return searched_of(module, self.experiment.data, prepare_machine(self.experiment.trainer))

    def resume(self, *, force: bool = False) -> Run:
        """Resumes a stopped search exactly; returns the run itself. With `force`, also if configuration or versions have changed."""
        search_stage.resume(self.path, self._trusted, force=force)
        return self

    def derive(self, strategy: Strategy | None = None, limits: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Derives again from the last checkpoint; returns a summary and writes nothing.

        `strategy` is a derive strategy, its class path, or ``{"class_path", "init_args"}``; None: that of the search. `limits`,
        name of a cost -> largest value, replace those of the search; a value of at most 1 is a share of the largest network's.
        """
        return derive_run(self.path, strategy=strategy, limits=limits, trusted=self._trusted)

    def retrain(self, *, seed: int | None = None, inherit: bool = False, out: str | Path | None = None) -> Run:
        """Trains the architecture on all training data and tests it once; returns the run of the retraining.

        Args:
            seed: Seed of weights and data order; None: the seed of the search.
            inherit: Start from the weights of the search.
            out: New folder; None: ``retrain`` in the run folder.

        Raises:
            UsageError: The search is not finished, or the folder exists already.
        """
        folder = retrain_run(self.path, seed=seed, inherit=inherit, out=_path(out), trusted=self._trusted)
        return Run(folder.path, trust_modules=self._trusted)

    def evaluate(self) -> dict[str, Any]:
        """Test metrics, parameters, MACs and latency in milliseconds of :meth:`network`."""
        return evaluate_run(self.path, self._trusted)

    def lookup(self, table: str | Path, *, dataset: str | None = None) -> dict[str, Any]:
        """Rank, value and distance to the best of :attr:`genotype` in a table of its space; see :func:`nas.benchmark.open_table`."""
        return lookup_run(self.path, Path(table), dataset=dataset, trusted=self._trusted)

    def export(
        self,
        out: str | Path | None = None,
        *,
        formats: Sequence[str] = DEFAULT,
        fold_bn: bool = False,
        batch: int | None = None,
        opset: int | None = None,
        tokenizer: Any = None,
    ) -> dict[str, Any]:
        """Writes :meth:`network` into files that need no gumbel-nas, each checked in a fresh interpreter.

        Args:
            out: New folder; None: ``export`` in the run folder.
            formats: Some of genotype, python, safetensors, onnx, pt2 and huggingface.
            fold_bn: Fold batch norms into the layers before them.
            batch: The only batch size of onnx and pt2; None: any.
            opset: Version of the ONNX operators; None: that of the exporter.
            tokenizer: See :func:`nas.export_network`.

        Raises:
            UsageError: The run is not finished, a format is unknown, or the folder exists already.
            ValueError: No format can hold the network.
        """
        return export_run(
            self.path,
            formats,
            _path(out),
            options=ExportOptions(fold_bn, batch, opset, tokenizer),
            trusted=self._trusted,
        )


def search(
    config: Config, *, out: str | Path | None = None, trust_modules: Sequence[str] = (), **overrides: Any
) -> Run:
    """Searches as ``nas search`` does, and returns the finished run.

    Example:
        >>> run = nas.search("configs/dilation_ranked_digits.yaml", model={"derive": {"init_args": {"num": 32}}})
        >>> run.genotype, run.retrain().summary["test_accuracy"]

    Args:
        config: A YAML file, or its content.
        out: New run folder; None: ``runs/<config name>/<n>``.
        trust_modules: Your own modules that the configuration may name.
        **overrides: Sections of the configuration, merged into it; a key may also be dotted, ``**{"trainer.max_epochs": 20}``.

    Raises:
        UsageError: An error found before the first file is written.
    """
    source = configuration(config, trust_modules, overrides)
    return Run(search_stage.search(source, _path(out)).path, trust_modules=source.trusted)


def retrain(
    genotype: Genotype | str | Path,
    config: Config,
    *,
    out: str | Path | None = None,
    trust_modules: Sequence[str] = (),
    **overrides: Any,
) -> Run:
    """Trains any architecture of a space as ``nas retrain --genotype`` does, and returns the finished run.

    Args:
        genotype: The architecture, or its file.
        config: See :func:`search`.
        out: New run folder; None: ``runs/<config name>/<n>``.
        trust_modules: Your own modules that the configuration may name.
        **overrides: See :func:`search`.

    Raises:
        UsageError: An error found before the first file is written.
    """
    source = configuration(config, trust_modules, overrides)
    found = genotype if isinstance(genotype, Genotype) else Path(genotype)
    return Run(retrain_genotype(found, source, seed=None, out=_path(out)).path, trust_modules=source.trusted)


def experiment(
    config: Config, *, stage: str = "search", trust_modules: Sequence[str] = (), **overrides: Any
) -> Experiment:
    """The instantiated parts of a configuration: space, data, task and settings, for the stage ``"search"`` or ``"retrain"``.

    `config`, `trust_modules` and `overrides` are those of :func:`search`.

    Raises:
        UsageError: The configuration is wrong.
    """
    return load_experiment(configuration(config, trust_modules, overrides), stage=stage)


def configuration(config: Config, trust_modules: Sequence[str], overrides: Mapping[str, Any]) -> ConfigSource:
    """The source of a configuration with `overrides`: key, possibly dotted -> value, possibly nested."""
    if isinstance(config, Mapping):
        source = ConfigSource(()).merged(config)
    else:
        source = config if isinstance(config, ConfigSource) else ConfigSource((Path(config),))
    return source.trusting(trust_modules).merged(overrides)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
