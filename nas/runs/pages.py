"""TensorBoard pages of a finished run: hyperparameters with the result, and text."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from nas.drawing import architecture_dot, draw_architecture, svg_text
from nas.genotype import Genotype
from nas.io.errors import describe
from nas.io.files import write_atomic
from nas.io.markdown import fenced, markdown_table
from nas.runs.config import yaml_text
from nas.runs.folder import RunFolder
from nas.supernet.search_space import SearchSpace


def write_pages(
    folder: RunFolder, values: Mapping[str, Any], genotype: Genotype, summary: Mapping[str, Any], step: int
) -> None:
    """Writes hyperparameters, final figures, and the pages config, genotype and summary; a failure only warns.

    `values` is the configuration. Replaces earlier pages of the same `step`, the number of batches done.
    """
    folder.wait_for_events()
    try:
        final = {f"final/{name}": float(value) for name, value in final_figures(summary).items()}
        with SummaryWriter(str(folder.path), purge_step=step + 1) as writer:
            write_hparams(writer, hyperparameters(values), final, step + 1)
            writer.add_text("config", fenced(yaml_text(values), "yaml"), step + 1)
            writer.add_text("genotype", markdown_table(("choice", "chosen", "probability"), genotype.rows()), step + 1)
            writer.add_text("summary", fenced(json.dumps(summary, indent=2, default=str), "json"), step + 1)
    except Exception as error:  # a failing page must not lose the result of the search
        warnings.warn(f"the TensorBoard pages of the run cannot be written: {describe(error)}", stacklevel=2)


def write_hparams(
    writer: SummaryWriter,
    parameters: Mapping[str, bool | int | float | str],
    figures: Mapping[str, float],
    step: int,
) -> None:
    """Adds a row with parameters and figures to the HParams page."""
    assert writer.file_writer is not None
    for part in hparams(dict(parameters), dict.fromkeys(figures, 0.0)):
        writer.file_writer.add_summary(part, step)
    for tag, value in figures.items():
        writer.add_scalar(tag, value, step)


def write_drawings(folder: RunFolder, space: SearchSpace, genotype: Genotype) -> None:
    """Writes architecture.svg and architecture.dot; a failure only warns."""
    try:
        cells = space.cells(genotype.choices)
        texts = {"svg": svg_text(draw_architecture(genotype, cells)), "dot": architecture_dot(genotype, cells)}
    except Exception as error:  # as above
        warnings.warn(f"the architecture cannot be drawn: {describe(error)}", stacklevel=2)
        return
    for ending, text in texts.items():
        write_atomic(folder.path / f"architecture.{ending}", text)


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Figures for comparing runs: the headline metric, parameters, MACs, seconds."""
    metric = summary["metric"]
    figures = {f"{metric['split']}_{metric['name']}": metric["value"], **summary.get("cost", {})}
    figures |= {key: summary[key] for key in ("params", "macs", "search_seconds", "train_seconds") if key in summary}
    return {key: value for key, value in figures.items() if isinstance(value, (int, float))}


CLASS = ".class_path"


def flattened(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key -> value. ``model.tau.class_path`` is a class, ``model.tau.start`` its argument; lists are values."""
    result: dict[str, Any] = {}
    for key, item in values.items():
        inside = path if key == "init_args" and "class_path" in values else f"{path}.{key}" if path else str(key)
        result |= flattened(item, inside) if isinstance(item, Mapping) and item else {inside: item}
    return result


def hyperparameters(values: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The configuration as a flat table: ``model.tau`` names a class, ``model.tau.start`` its argument."""
    result: dict[str, bool | int | float | str] = {}
    for key, item in flattened(
        {k: values[k] for k in ("seed_everything", "trainer", "model", "data") if k in values}
    ).items():
        if key.endswith(CLASS):
            result[key.removesuffix(CLASS)] = str(item).rpartition(".")[2]
        elif isinstance(item, (bool, int, float, str)):
            result[key] = item
        elif isinstance(item, list) and item:
            result[key] = json.dumps(item, default=str)[:200]
    return result
