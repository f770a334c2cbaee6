"""The run folder of a search in training code of the user."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from nas.callbacks.dashboard import add_pictures
from nas.callbacks.layout import custom_scalars
from nas.callbacks.writers import add_scalars
from nas.costs.functions import num_macs, num_params
from nas.derive.base import Searched, distribution_of, runner_up
from nas.drawing import search_pictures
from nas.export.manifest import read_tensors
from nas.genotype import Genotype
from nas.io.csv_file import CsvFile, read_columns
from nas.io.errors import UsageError, describe
from nas.io.files import write_atomic
from nas.io.reading import MAX_TENSOR_BYTES, check_size
from nas.io.versions import versions
from nas.runs.config import yaml_text
from nas.runs.folder import RunFolder
from nas.runs.kept import keep_network
from nas.runs.options import OWN_CODE
from nas.runs.own.costs import OwnCosts
from nas.runs.pages import write_drawings, write_pages
from nas.runs.targets import save_tables, target_report

INPUTS = "inputs.safetensors"


class OwnRun:
    """Writes the run folder of a :class:`nas.Searcher`.

    Args:
        path: The folder. A new search makes it; a search that goes on uses it.
        values: The content of config.yaml.
    """

    def __init__(self, path: str | Path, values: Mapping[str, Any]) -> None:
        self.folder = RunFolder(path)
        self.values = dict(values)
        self.metrics = CsvFile(self.folder.metrics_csv)
        self.writer: SummaryWriter | None = None
        self.written: tuple[int, Mapping[str, float | None]] = (-1, {})
        self.start = time.perf_counter()

    def begin(self, step: int) -> None:
        """Makes the folder, or opens it to go on after `step` steps; does nothing at later calls.

        Raises:
            UsageError: A new search names a folder that exists, or a search goes on in the folder of another run.
        """
        if self.writer is not None:
            return
        if step and self.folder.config.is_file():
            if self.folder.finished:
                raise UsageError(f"run folder {self.folder.shown} is finished; name another with out")
            self.metrics.cut_after(step)
        elif self.folder.path.exists():
            raise UsageError(f"run folder {self.folder.shown} exists already; name another with out")
        else:
            RunFolder.create(self.folder.path, "", lambda new: write_atomic(new.config, yaml_text(self.values)))
        self.folder.wait_for_events()
        self.writer = SummaryWriter(str(self.folder.path), purge_step=step + 1 if step else None)

    def write(self, step: int, row: Mapping[str, float | None]) -> None:
        """Writes the scalars of one step."""
        assert self.writer is not None
        self.written = (step, row)
        if not self.metrics.path.exists():
            self.writer.add_custom_scalars(custom_scalars(row))
        self.metrics.append(step, row)
        add_scalars(self.writer, row, step)

    def finish(
        self, searched: Searched, found: Genotype, network: nn.Module, costs: OwnCosts, metrics: Mapping[str, float]
    ) -> None:
        """Writes the result of a search, after its last row of scalars: weights, pictures, summary, genotype and manifest."""
        assert self.writer is not None
        seconds = time.perf_counter() - self.start
        step, row = self.written
        genotype, summary = result_of(
            searched, found, network, costs, dict(metrics) or {"loss of alpha": row["arch/loss"]}
        )
        genotype = replace(genotype, space=self.values["model"]["space"])
        summary["search_seconds"] = seconds
        try:
            rows, cells = read_columns(self.metrics.path, "choice/"), searched.space.cells(genotype.choices)
            add_pictures(self.writer, search_pictures(rows, genotype, cells), step)
        except Exception as error:  # failing pictures must not lose the result of the search
            warnings.warn(f"the pictures of the run cannot be drawn: {describe(error)}", stacklevel=2)
        self.writer.close()
        write_pages(self.folder, self.values, genotype, summary, step)
        write_drawings(self.folder, searched.space, genotype)
        keep_network(self.folder, network, genotype.choices)
        save_tables(costs.tables, self.folder.path)
        save_inputs(costs.sample, self.folder.path / INPUTS)
        self.folder.finish(summary, genotype)


def result_of(
    searched: Searched, found: Genotype, network: nn.Module, costs: OwnCosts, metrics: Mapping[str, float | None]
) -> tuple[Genotype, dict[str, Any]]:
    """The found architecture, and the summary of its search, as :func:`nas.runs.results.derive_and_score` has it."""
    supernet = searched.supernet
    cost, measured = {"params": num_params(network)}, {}
    if costs.sample is not None:
        plain, inputs = costs.called(network)
        cost["macs"] = num_macs(plain, inputs)
        measured = {"network": {target.name: float(target.function(plain, inputs)) for target in costs.targets}}
    tables = {name: table.of(found.choices) for name, table in costs.tables.items()}
    report = target_report(costs.targets, table=tables, **measured)
    genotype = Genotype(
        found.choices,
        probabilities=searched.probabilities(),
        cost=cost,
        provenance={"seed": searched.seed, "versions": versions()},
    )
    distribution = distribution_of(supernet, found.choices)
    name, value = next(iter(metrics.items()))
    return genotype, {
        "stage": "search",
        OWN_CODE: True,
        "genotype": dict(genotype.choices),
        "probabilities": genotype.probabilities,
        "metric": {"name": name, "value": value, "split": "arch"},
        "metrics": dict(metrics),
        "cost": cost,
        "target": report,
        "target_met": all(row["met"] for row in report.values()) if report else None,
        "distribution": distribution,
        "runner_up": runner_up(searched, distribution, found),
        "num_architectures": supernet.num_architectures,
        "seed": searched.seed,
        "device": str(searched.device),
    }


def save_inputs(sample: tuple[tuple[Any, ...], dict[str, Any]] | None, path: Path) -> None:
    """Writes the arguments of a network for one sample, if all are tensors; the key of an argument is its number or its name."""
    named = {} if sample is None else {**{str(i): item for i, item in enumerate(sample[0])}, **sample[1]}
    if named and all(isinstance(item, Tensor) for item in named.values()):
        write_atomic(path, save({key: item.detach().cpu().clone().contiguous() for key, item in named.items()}))


def read_inputs(path: Path) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The arguments that :func:`save_inputs` wrote: by position, and by keyword; raises UsageError if there are none."""
    if not path.is_file():
        raise UsageError(f"{path}: missing; the search kept no inputs of its network")
    check_size(path, MAX_TENSOR_BYTES)
    tensors = read_tensors(path)
    numbers = sorted((key for key in tensors if key.isdecimal()), key=int)
    return tuple(tensors[key] for key in numbers), {k: t for k, t in tensors.items() if not k.isdecimal()}
