"""TensorBoard pages of a search: pictures, additional scalars, and the layout of custom scalars."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import Callback

from nas.callbacks.layout import custom_scalars
from nas.callbacks.writers import write_scalars, writers
from nas.derive import discretized
from nas.drawing import draw_architecture, draw_heat_map, draw_most_probable, draw_scores, probability_history
from nas.genotype import Genotype
from nas.io.csv_file import read_columns
from nas.io.errors import describe
from nas.supernet.search_space import SearchSpace
from nas.supernet.supernet import Supernet
from nas.training.cost_penalty import CostPenalty
from nas.training.search_module import SearchModule

HEAT_MAP, ARCHITECTURE = "search/probabilities", "search/architecture"
MOST_PROBABLE, SCORES = "search/most_probable", "search/scores"
ADDED = ("gap/supernet", "gap/derived", "system/batches_per_second", "system/peak_memory_gb", "system/seconds")
"""Tags of scalars that callbacks add to those of the module."""

Gap = Callable[[SearchModule, Genotype], Mapping[str, float]]


class Dashboard(Callback):
    """Writes pictures of a search at equal intervals, and once the layout of the custom scalars.

    The step of every entry is the batch counter, and all values come from the module and metrics.csv. A resumed search therefore writes
    the same entries as a search that was not stopped.

    Args:
        metrics_csv: The metrics file, for the history of the probabilities.
        num_images: How many times pictures are written; the last time is the end of the search. 0: never.
        gap: Compares the network of the current genotype with the supernet, as tag -> value, whenever pictures are written; None: no
            comparison.
        moments: The history of :class:`nas.callbacks.distribution.DistributionHistory`, which grows during the search.
    """

    def __init__(
        self,
        metrics_csv: Path,
        *,
        num_images: int = 10,
        gap: Gap | None = None,
        moments: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.moments = moments
        self.metrics_csv = metrics_csv
        self.num_images = num_images
        self.gap = gap

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.num_batches_done == 0:
            scalars = pl_module.scalars()
            costs = [f"{tag}/{kind}" for tag in scalars if tag.startswith("cost/") for kind in ("derived", "limit")]
            for writer in writers(trainer):
                writer.add_custom_scalars(custom_scalars([*scalars, *costs, *ADDED]))
                writer.flush()

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        num_epochs = int(trainer.max_epochs or 1)
        if not self._is_due(trainer.current_epoch, num_epochs) or not pl_module.supernet.choices:
            return
        if pl_module.warmup_epochs >= num_epochs:  # alpha is frozen throughout
            return
        step = pl_module.num_batches_done
        try:
            genotype = discretized(pl_module.supernet, pl_module.relaxation, pl_module.space)
            figures = dict(self._figures(pl_module, genotype))
            scalars = {**_costs(pl_module, genotype), **({} if self.gap is None else self.gap(pl_module, genotype))}
        except Exception as error:  # failing pictures must not end a long search
            warnings.warn(f"batch {step}: pictures cannot be drawn: {describe(error)}", stacklevel=2)
            return
        for writer in writers(trainer):
            for tag, figure in figures.items():
                writer.add_image(tag, pixels(figure), step, dataformats="HWC")
            alpha = pl_module.supernet.alpha[pl_module.supernet.mask]
            writer.add_histogram("alpha", alpha.float().cpu(), step)
        write_scalars(trainer, scalars, step)

    def _is_due(self, epoch: int, num_epochs: int) -> bool:
        """Whether pictures are due after this epoch. They are due after `num_images` epochs, including the last epoch."""
        return (epoch + 1) * self.num_images // num_epochs > epoch * self.num_images // num_epochs

    def _figures(self, module: SearchModule, genotype: Genotype) -> Iterator[tuple[str, Figure]]:
        known = replace(genotype, probabilities=module.supernet.probabilities(module.relaxation))
        yield from search_figures(self.metrics_csv, module.supernet, known, module.space)
        if self.moments:
            yield MOST_PROBABLE, draw_most_probable(self.moments)
        if scored := [entry._asdict() for entry in module.scores.found.values()]:
            yield SCORES, draw_scores(scored, {"most probable": genotype.choices})


def search_figures(
    metrics_csv: Path, supernet: Supernet, genotype: Genotype, space: SearchSpace
) -> Iterator[tuple[str, Figure]]:
    """The pictures of every search, by their tags: the probabilities over time, and the architecture."""
    yield HEAT_MAP, draw_heat_map(probability_history(read_columns(metrics_csv, "choice/"), supernet.choices))
    yield ARCHITECTURE, draw_architecture(genotype, space.cells(genotype.choices))


def _costs(module: SearchModule, genotype: Genotype) -> dict[str, float]:
    """The cost of the derived network from each table, and the limit of this cost."""
    result = {}
    for regularizer in module.regularizers:
        if isinstance(regularizer, CostPenalty):
            table = regularizer.expected.table
            result[f"cost/{table.name}/derived"] = float(table.of(genotype.choices))
            result[f"cost/{table.name}/limit"] = float(regularizer.limit)
    return result


def pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 pixels (H, W, 3)."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
