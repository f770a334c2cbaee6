"""TensorBoard pages of a search: pictures, additional scalars, and the layout of custom scalars."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from nas.drawing import Picture, distribution_pictures, search_pictures
from nas.drawing.choices import WIDTH
from nas.genotype import Genotype
from nas.io.csv_file import read_columns
from nas.io.errors import describe
from nas.training.cost_penalty import CostPenalty
from nas.training.search_module import SearchModule

ADDED = ("gap/supernet", "gap/derived", "system/batches_per_second", "system/peak_memory_gb", "system/seconds")
"""Tags of scalars that callbacks add to those of the module."""

CARD = 350
"""Width of a card of TensorBoard's images, in pixels."""

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
            pictures = list(self._pictures(pl_module, genotype))
            scalars = {**_costs(pl_module, genotype), **({} if self.gap is None else self.gap(pl_module, genotype))}
        except Exception as error:  # failing pictures must not end a long search
            warnings.warn(f"batch {step}: pictures cannot be drawn: {describe(error)}", stacklevel=2)
            return
        for writer in writers(trainer):
            add_pictures(writer, pictures, step)
            alpha = pl_module.supernet.alpha[pl_module.supernet.mask]
            writer.add_histogram("alpha", alpha.float().cpu(), step)
        write_scalars(trainer, scalars, step)

    def _is_due(self, epoch: int, num_epochs: int) -> bool:
        """Whether pictures are due after this epoch. They are due after `num_images` epochs, including the last epoch."""
        return (epoch + 1) * self.num_images // num_epochs > epoch * self.num_images // num_epochs

    def _pictures(self, module: SearchModule, genotype: Genotype) -> Iterator[Picture]:
        known = replace(genotype, probabilities=module.supernet.probabilities(module.relaxation))
        yield from search_pictures(
            read_columns(self.metrics_csv, "choice/"), known, module.space.cells(genotype.choices)
        )
        if self.moments:
            scored = [entry._asdict() for entry in module.scores.found.values()]
            yield from distribution_pictures(self.moments, scored, {"most probable": genotype.choices})


def _costs(module: SearchModule, genotype: Genotype) -> dict[str, float]:
    """The cost of the derived network from each table, and the limit of this cost."""
    result = {}
    for regularizer in module.regularizers:
        if isinstance(regularizer, CostPenalty):
            table = regularizer.expected.table
            result[f"cost/{table.name}/derived"] = float(table.of(genotype.choices))
            result[f"cost/{table.name}/limit"] = float(regularizer.limit)
    return result


def add_pictures(writer: Any, pictures: Iterable[Picture], step: int) -> None:
    """Writes the pictures that are not left out to TensorBoard."""
    for picture in pictures:
        if picture.figure is not None:
            writer.add_image(picture.tag, pixels(picture.figure), step, dataformats="HWC")


def pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 pixels (H, W, 3), one card of TensorBoard wide, since TensorBoard scales pixels without smoothing."""
    figure.set_dpi(CARD / WIDTH)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
