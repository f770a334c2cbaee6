"""A search inside a Lightning Trainer of your own."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, StochasticWeightAveraging
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from nas.evaluation import batch_norms, recalibrating
from nas.genotype import Genotype
from nas.io.distributed import average, num_processes, process_rank
from nas.io.rng import derive_seed, seed_global_generators
from nas.lightning.arch_batches import ArchBatches
from nas.lightning.module import arch_loader, lengths, network_of, on_device, quiet, training_step, using
from nas.runs.own.network import space_of
from nas.searcher import Searcher

NUM_CALIBRATION_BATCHES = 50
"""Number of training batches that recalibrate the batch norms of the found network."""
ArchLoss = Callable[[Any, Any], Tensor]
"""The loss of alpha, from the Lightning module and a batch."""


class SearchCallback(Callback):
    """Searches the choices in the network of any LightningModule, while its Trainer trains the weights as always.

    Before each training step, alpha takes a step on a batch of `arch_data`, by the loss of the module's own ``training_step``, whose
    logging is off meanwhile. The training step then runs with a draw of op weights. Validation and test run the most probable architecture.
    After the training, :attr:`network` is the found network and :attr:`genotype` its architecture. ``ckpt_path`` of the Trainer resumes the
    search: the random generators of torch, numpy and Python are seeded for every epoch and batch by `seed`.

    Args:
        network: Name of the attribute of the module that is the network to search, count and return; ``""``: the whole module; None: the
            attribute that holds all choices, or else the module.
        arch_data: Batches that train alpha, like those of the training loader; None: the validation loader. :func:`split_loader` makes two
            loaders of one. Under ``ddp`` each process reads its part of a loader.
        arch_loss: Computes the loss of alpha from the module and a batch; None: ``training_step``; manual optimization needs it.
        warmup_epochs: Number of epochs at the start in which alpha is frozen.
        seed: Seed of the search and of the random generators.
        **options: Arguments of :class:`nas.Searcher`: relaxation, tau, limits, out and others.

    Attributes:
        searcher: The search; None before a fit.
        network: The found network with its weights; None before the end of a fit.

    Raises:
        ValueError: The module, its Trainer or its data do not fit. FloatingPointError: A loss is not finite.
    """

    def __init__(
        self,
        *,
        network: str | None = None,
        arch_data: Any = None,
        arch_loss: ArchLoss | None = None,
        warmup_epochs: int = 0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        # an unknown option is a TypeError now, not in the fit
        inspect.signature(Searcher).bind(None, num_steps=1, seed=seed, **options)
        self.network_name = network
        self.arch_data = arch_data
        self.arch_loss = arch_loss
        self.warmup_epochs = warmup_epochs
        self.seed = seed
        self.options = options
        self.searcher: Searcher | None = None
        self.network: nn.Module | None = None
        self._trainer: pl.Trainer | None = None
        self._batches: ArchBatches | None = None
        self._batches_per_epoch = 1
        self._is_resumed = False  # until the first batch
        self._stack = ExitStack()
        self._loaded: dict[str, Any] = {}

    @property
    def genotype(self) -> Genotype:
        """The most probable architecture within the limits."""
        if self.searcher is None:
            raise ValueError(
                "SearchCallback has not searched yet: call fit of its Trainer; under ddp_spawn, read the run folder"
            )
        return self.searcher.genotype

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self._trainer not in (None, trainer):
            raise ValueError("SearchCallback is in a fit already: nested Trainers need a callback each")
        if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "SearchCallback cannot search under StochasticWeightAveraging, whose batch norms would mix architectures; use it when you "
                "train the found network"
            )
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            raise ValueError(f"SearchCallback cannot search under {type(trainer.strategy).__name__}; use ddp")
        if str(trainer.precision).startswith("16"):
            raise ValueError(
                f"SearchCallback cannot scale the gradient of alpha under precision {trainer.precision}; use bf16-mixed"
            )
        if not pl_module.automatic_optimization and self.arch_loss is None:
            raise ValueError(
                "SearchCallback needs arch_loss: a module with manual optimization takes its steps in training_step"
            )
        self._trainer = trainer

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seed("epoch", 0)  # Lightning makes the first iterator when it sets up the loader
        self._batches_per_epoch, num_steps = lengths(trainer)
        options: dict[str, Any] = {
            "log_every": self._batches_per_epoch,
            "warmup_steps": self.warmup_epochs * self._batches_per_epoch,
        }
        options |= self.options
        if getattr(trainer, "fast_dev_run", False):
            options |= {"warmup_steps": 0, "out": None}
        if not options["warmup_steps"] < num_steps:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, so alpha would never be trained")
        self._make_searcher(pl_module, num_steps=num_steps, **options)

    def _make_searcher(self, module: pl.LightningModule, **options: Any) -> None:
        if self.searcher is not None:
            self.searcher.detach()
        network, part = network_of(module, self.network_name)
        self.searcher = Searcher(network, made_by=space_of(module, part), seed=self.seed, **options)
        self.network = None
        if self._loaded:
            self.searcher.load_state_dict(self._loaded["searcher"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.searcher is not None
        data = arch_loader(trainer, self.arch_data)
        train = trainer.train_dataloader
        if data is train or getattr(data, "dataset", data) is getattr(train, "dataset", None):
            warnings.warn(
                "arch_data has the samples that train the weights, so alpha learns what overfits; see split_loader",
                stacklevel=2,
            )
        self._batches = ArchBatches(data, self.seed, self._loaded.get("num_arch_batches", 0))
        if self._loaded and (reason := self._inexact(train)):
            warnings.warn(
                f"the search goes on, but not with the batches of an uninterrupted one: {reason}", stacklevel=2
            )
        elif self._loaded:
            self._is_resumed = True
            self._begin_data(trainer)
        self._loaded = {}

    def _begin_data(self, trainer: pl.Trainer) -> None:
        """Fixes the order of the training data in this epoch.

        A Trainer makes a new iterator for each epoch, but not always for the first one after a checkpoint.
        """
        assert self.searcher is not None
        self._seed("epoch", self.searcher.num_steps_done // self._batches_per_epoch)
        loop = trainer.fit_loop
        if self._is_resumed and (loop.is_resuming or loop.epoch_loop.restarting):
            iter(loop._data_fetcher)  # type: ignore[arg-type]

    def _inexact(self, loader: Any) -> str:
        """Why the order of the training data cannot be repeated; empty if it can."""
        assert self.searcher is not None
        if self.searcher.num_steps_done % self._batches_per_epoch:
            return "the checkpoint was written within an epoch, and Lightning begins the data of this epoch anew"
        for owner in (loader, getattr(loader, "sampler", None)):
            if getattr(owner, "generator", None) is not None:
                return f"its {type(owner).__name__} has a generator of its own"
        if getattr(loader, "persistent_workers", False):
            return "its workers are persistent, and keep their random state over epochs"
        return ""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_data(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self.searcher is not None and self._batches is not None
        self._leave()
        self._is_resumed = False
        self._seed("batch", self.searcher.num_steps_done)
        if self.searcher.num_steps_done >= self.searcher.warmup_steps:
            arch_batch = on_device(trainer, pl_module, next(self._batches))
            with quiet(pl_module), trainer.precision_plugin.train_step_context():
                self.searcher.arch_step(lambda: self._loss(pl_module, arch_batch, batch_idx))
        self._stack.enter_context(self.searcher.sampled())

    def _loss(self, module: pl.LightningModule, batch: Any, batch_idx: int) -> Tensor:
        if self.arch_loss is not None:
            return self.arch_loss(module, batch)
        result = training_step(module, batch, batch_idx)
        loss = result.get("loss") if isinstance(result, dict) else result
        if not isinstance(loss, Tensor):
            raise ValueError(
                f"SearchCallback needs the loss that training_step returns for a batch of arch_data, but got {type(loss).__name__}; pass "
                "arch_loss"
            )
        return loss

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.searcher is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor) and not bool(torch.isfinite(loss).all()):
            raise FloatingPointError(f"the loss of training_step is not finite at batch {self.searcher.num_steps_done}")
        self._stack.close()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.searcher is not None
        row = {tag: value for tag, value in self.searcher.row.items() if value is not None}
        pl_module.log_dict(row, sync_dist=num_processes() > 1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING or not trainer.ckpt_path:
            return  # otherwise the search of the checkpoint is needed, which a Trainer does not restore
        io = trainer.strategy.checkpoint_io
        state = io.load_checkpoint(trainer.ckpt_path, map_location="cpu", weights_only=True)["callbacks"]
        if self.state_key in state:
            self._loaded = state[self.state_key]
            with torch.inference_mode(False):
                self._make_searcher(pl_module, num_steps=1, **{**self.options, "out": None})
            self._loaded = {}

    on_test_start = on_predict_start = on_validation_start

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        if self.searcher is not None:
            self._leave()
            self._stack.enter_context(self.searcher.most_probable())

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._stack.close()

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start
    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.searcher is not None
        network = self.searcher.derive()
        if batch_norms(network):
            self._seed("calibration", 0)
            with (
                using(pl_module, self.searcher.network, network) as module,
                quiet(module),
                recalibrating(network),
                torch.no_grad(),
            ):
                for number, batch in enumerate(islice(trainer.train_dataloader or (), NUM_CALIBRATION_BATCHES)):
                    self._loss(module, on_device(trainer, pl_module, batch), number)
            average([buffer for buffer in network.buffers() if buffer.is_floating_point()])
        own = self.searcher.row
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name not in own}
        shown = sorted(metrics.items(), key=lambda item: not item[0].startswith("val"))
        self.network = self.searcher.finish(network, **dict(shown))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._leave()
        self._trainer = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._leave()
        self._trainer = None

    def _leave(self) -> None:
        """Ends an open block without its step, which was skipped or interrupted."""
        error = RuntimeError("interrupted")
        self._stack.__exit__(type(error), error, None)

    def state_dict(self) -> dict[str, Any]:
        if self.searcher is None or self._batches is None:
            return {}
        return {
            "searcher": self.searcher.state_dict(),
            "num_arch_batches": self._batches.num_done,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict

    def _seed(self, purpose: str, number: int) -> None:
        seed = derive_seed(self.seed, purpose, number, process_rank())
        seed_global_generators(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
