"""Searches inside a Trainer of the user, on a LightningModule, data, callbacks and loggers of the user."""

import csv
import importlib
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.strategies import ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nas
from nas.lightning import SearchCallback, split_loader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(many workers|logging interval|exists and is not empty|_pytree|LeafSpec).*"),
    pytest.mark.filterwarnings("ignore:.*(no `val_dataloader`|not resumable|callbacks used to create).*"),
]

MODULE = """
import numpy as np
import pytorch_lightning as pl
import torch
from functools import partial
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy
import nas


class Module(pl.LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.save_hyperparameters()
        convs = {f"kernel_{k}": partial(nn.Conv1d, 1, width, k, padding=k // 2) for k in (1, 3, 7)}
        self.net = nn.Sequential(
            nas.choice("conv", convs), nn.BatchNorm1d(width), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.1),
            nn.Linear(width, 3))
        self.accuracy = MulticlassAccuracy(3)
        self.seen = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        share = float(np.random.beta(1.0, 1.0))  # mixup
        logits = self.net(share * x + (1 - share) * x.flip(0))
        loss = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y.flip(0))
        self.log("train_loss", loss, on_epoch=True)
        self.log("train_accuracy", self.accuracy(logits, y), on_epoch=True)
        return {"loss": loss, "batch": batch}

    def validation_step(self, batch):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))

    def test_step(self, batch):
        self.validation_step(batch)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2)}
"""


def samples(number, seed):
    """The sign of a moving average in the middle: one value does not tell it."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (number,), generator=generator)
    x = torch.randn(number, 1, 16, generator=generator) + (y[:, None, None] - 1)
    return TensorDataset(x, y)


TRAIN, VAL = samples(96, 0), samples(48, 1)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The class Module, in a file that a later command can import."""
    (tmp_path / "own_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    torch.manual_seed(0)
    return importlib.import_module("own_module").Module


def loaders(workers=0):
    return (
        DataLoader(TRAIN, 16, shuffle=True, num_workers=workers, multiprocessing_context="fork" if workers else None),
        DataLoader(VAL, 16),
    )


def fit(module, *callbacks, max_epochs=4, ckpt_path=None, data=None, **options):
    options = {"logger": False, "enable_checkpointing": False, **options}
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, *(data or loaders()), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_callbacks_and_loggers_of_the_user_see_everything(module, tmp_path, run_cli):
    own, search = module(), SearchCallback(out="run", limits={"macs": 16 * 4 * 3 + 12})
    best = ModelCheckpoint(tmp_path / "best", monitor="val_loss", filename="{epoch}")
    stop = EarlyStopping("arch/loss", patience=1, min_delta=10.0)  # no epoch is better by so much
    loggers = [TensorBoardLogger(tmp_path, "board"), CSVLogger(tmp_path, "csv")]
    trainer = fit(
        own, search, stop, LearningRateMonitor(), best, logger=loggers, enable_checkpointing=True, log_every_n_steps=1
    )
    assert trainer.current_epoch == 2  # stopped
    with open(next((tmp_path / "csv").rglob("metrics.csv"))) as file:
        rows = list(csv.DictReader(file))
    wanted = {
        "train_loss_epoch",
        "val_loss",
        "arch/loss",
        "search/tau",
        "search/entropy",
        "choice/conv/kernel_3",
        "cost/macs",
        "lr-SGD",
    }
    assert all(any(row.get(name) for row in rows) for name in wanted)
    board = EventAccumulator(str(next((tmp_path / "board").rglob("events*")).parent)).Reload()
    assert wanted <= set(board.Tags()["scalars"])
    losses = {row["epoch"]: float(row["val_loss"]) for row in rows if row["val_loss"]}
    assert best.best_model_path.endswith(f"epoch={min(losses, key=losses.get)}.ckpt")
    assert set(own.state_dict()) == set(module().state_dict())  # alpha is not in the module
    trust = ("--trust-module", "own_module")
    assert run_cli("report", "--run", "run").code == 0
    assert run_cli("export", "--run", "run", *trust).code == run_cli("export", "--verify", "run/export").code == 0
    answer = run_cli("evaluate", "--run", "run", *trust, "--json").result
    assert answer["macs"] <= 16 * 4 * 3 + 12 and answer["val_loss"] == pytest.approx(
        float(trainer.callback_metrics["val_loss"])
    )
    assert "search/tau" not in answer
    x = VAL[:8][0]
    assert torch.equal(nas.load("run", trust_modules=["own_module"])(x), search.network.eval()(x))


def test_batch_norms_of_the_found_network_have_its_own_statistics(module):
    own, search = module(), SearchCallback()
    fit(own, search)
    found = search.network
    x = torch.cat([x for x, _ in loaders()[0]])  # mixup does not change the mean of a convolution's output
    mean = found[0](x).mean((0, 2))
    torch.testing.assert_close(found[1].running_mean, mean)
    assert not torch.allclose(own.net[1].running_mean, mean, rtol=1e-3)


class Cut(Callback):
    """Ends the training after a number of epochs, as a kill does."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epochs:
            raise RuntimeError("killed")


@pytest.mark.parametrize(("workers", "at_epoch_end"), [(0, False), (0, True), (2, False)])
def test_a_search_resumed_by_the_trainer_is_bit_for_bit_the_undisturbed_one(module, tmp_path, workers, at_epoch_end):
    def start(name, *callbacks, **options):
        torch.manual_seed(7)
        own = module()
        search = SearchCallback(out=name, limits={"macs": 400}, warmup_epochs=1, seed=4)
        last = ModelCheckpoint(tmp_path / name / "ckpt", save_last=True, save_on_train_epoch_end=at_epoch_end)
        fit(own, search, last, *callbacks, enable_checkpointing=True, data=loaders(workers), **options)
        return own, search

    own, whole = start("whole")
    with pytest.raises(RuntimeError, match="killed"):
        start("parts", Cut(2))
    torch.manual_seed(99), np.random.seed(99)
    again, resumed = start("parts", ckpt_path=tmp_path / "parts" / "ckpt" / "last.ckpt")
    for name in ("metrics.csv", "genotype.json", "cost_tables.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    torch.testing.assert_close(again.state_dict(), own.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.searcher.supernet.alpha, whole.searcher.supernet.alpha, rtol=0, atol=0)


def test_limits_of_latency_are_measured_and_kept(module):
    search = SearchCallback(out="run", limits={"latency_ms": 1e3})
    fit(module(), search, max_epochs=1)
    assert nas.Run("run").summary["target"]["latency_ms"]["met"]
    table = search.searcher.costs.tables["latency_ms"]
    assert 0 < table.of(search.genotype.choices) < 1e3
    with pytest.raises(ValueError, match="no architecture has latency_ms of at most"):
        fit(module(), SearchCallback(limits={"latency_ms": 1e-6}), max_epochs=1)


def test_a_checkpoint_within_an_epoch_says_what_is_not_repeated(module, tmp_path):
    last = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2)
    with pytest.raises(RuntimeError, match="killed"):
        fit(module(), SearchCallback(), last, Stopped(3), enable_checkpointing=True)
    again = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=2)
    with pytest.warns(
        UserWarning, match="not with the batches of an uninterrupted one: the checkpoint was written within"
    ):
        fit(module(), SearchCallback(), again, ckpt_path=tmp_path / "last.ckpt", enable_checkpointing=True)


class Stopped(Callback):
    """Ends the training before a batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.batch:
            raise RuntimeError("killed")


def test_the_step_of_alpha_logs_nothing_and_leaves_metrics_alone(module):
    seen = []

    class Noting(module):
        def training_step(self, batch, batch_idx):
            seen.append(self.accuracy._update_count)
            return super().training_step(batch, batch_idx)

    trainer = fit(Noting(), SearchCallback(), max_epochs=1)
    assert seen[:12] == [n for step in range(6) for n in (0, step)]  # alpha's step sees a metric of its own
    assert 0 < trainer.callback_metrics["train_accuracy_epoch"] <= 1


def test_tests_after_the_fit_run_the_most_probable_architecture(module):
    own, search = module(), SearchCallback()
    trainer = fit(own, search)
    (result,) = trainer.test(own, loaders()[1], verbose=False)
    plain = search.searcher.supernet.derive(search.genotype).eval()
    with torch.no_grad():
        expected = F.cross_entropy(plain(VAL.tensors[0]), VAL.tensors[1])
    assert result["val_loss"] == pytest.approx(float(expected), rel=1e-5)


class Manual(pl.LightningModule):
    """Optimizes by hand, and calls a part of its network."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Flatten(), nas.choice("layer", {"plain": partial(nn.Linear, 16, 3), "wide": Wide}))

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        for x, y in zip(batch[0].chunk(2), batch[1].chunk(2), strict=True):
            loss = F.cross_entropy(self.net[1](x.flatten(1)), y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def test_manual_optimization_with_a_loss_for_alpha(module):
    own = Manual()
    search = SearchCallback(
        arch_data=loaders()[1], arch_loss=lambda m, batch: F.cross_entropy(m.net(batch[0]), batch[1])
    )
    fit(own, search, data=loaders()[:1])
    assert search.searcher.num_steps_done == 24 and search.searcher.supernet.alpha.abs().sum() > 0


def test_half_of_the_training_samples_train_alpha():
    first, second = split_loader(DataLoader(TRAIN, 16, shuffle=True), 0.25, seed=3)
    both = [set(map(bytes, (x.numpy().tobytes() for x in torch.cat([x for x, _ in part])))) for part in (first, second)]
    assert [len(part) for part in both] == [72, 24] and not both[0] & both[1]
    own = DataLoader(TRAIN, sampler=torch.utils.data.WeightedRandomSampler([1.0] * 96, 96))
    with pytest.raises(ValueError, match="cannot split a loader with a WeightedRandomSampler"):
        split_loader(own)
    with pytest.raises(ValueError, match="arch_share must lie between 0 and 1"):
        split_loader(first, 1.0)


class Raising(Logger):
    """A logger that fails."""

    name, version = "raising", 0

    def log_metrics(self, metrics, step=None):
        raise OSError("the server is away")

    def log_hyperparams(self, params):
        pass


class Outside(pl.LightningModule):
    """A choice beside the network."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.loss = nas.choice("loss", {"a": nn.Identity, "b": nn.ReLU})

    def training_step(self, batch):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda own: setattr(own, "net", nn.Linear(16, 3)), {}, "Module has no choices"),
        (None, {"network": "accuracy"}, "is a choice outside of the network 'accuracy'"),
        (None, {"network": "nothing"}, "Module has no network 'nothing'"),
        (lambda own: setattr(own, "net", nas.Supernet(own.net)), {}, "Module holds a nas.Supernet"),
        (lambda own: setattr(own, "automatic_optimization", False), {}, "needs arch_loss"),
        (None, {"arch_data": []}, "arch_data has no batches"),
        (None, {"warmup_epochs": 4}, "alpha would never be trained"),
        (
            lambda own: setattr(own, "training_step", lambda batch: None),
            {},
            "the loss that training_step returns .* got NoneType",
        ),
        (None, {"limits": {"macs": 5}}, "no architecture has macs of at most 5"),
    ],
)
def test_bad_modules_are_refused_in_one_line(module, change, options, message):
    own = module()
    if change is not None:
        change(own)
    with pytest.raises(ValueError, match=message) as caught:
        fit(own, SearchCallback(**options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 2, "max_steps": 10_000}, 12),
        ({"max_epochs": 5, "max_steps": 9}, 9),
        (
            {"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 4},
            12,
        ),  # two optimizer steps in an epoch of 6 batches
        ({"max_epochs": 9, "max_steps": 5, "accumulate_grad_batches": 4}, 16),
        ({"max_epochs": 2, "limit_train_batches": 4}, 8),
    ],
)
def test_tau_ends_with_the_training(module, options, expected):
    search = SearchCallback()
    fit(module(), search, **options)
    assert search.searcher.num_steps == search.searcher.num_steps_done == expected


def test_a_checkpoint_is_validated_with_its_own_architecture(module, tmp_path):
    def build():
        torch.manual_seed(0)
        return module()

    seen = []

    class Noting(Callback):
        def on_train_epoch_start(self, trainer, pl_module):  # another architecture in each epoch
            with torch.no_grad():
                search.searcher.supernet.alpha[0, trainer.current_epoch % 3] += 9.0 * (1 + trainer.current_epoch)
            search.searcher._arch._version = None

        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen.append((float(trainer.callback_metrics["val_loss"]), dict(search.genotype.choices)))

    every = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    own, search = build(), SearchCallback(arch_optimizer=partial(torch.optim.SGD, lr=0.0))
    trainer = fit(own, search, every, Noting(), enable_checkpointing=True)
    assert seen[1][1] != seen[-1][1]  # the test would show nothing otherwise
    for epoch in (1, 3):
        found = trainer.validate(
            own, loaders()[1], ckpt_path=tmp_path / f"epoch={epoch}.ckpt", verbose=False, weights_only=True
        )[0]
        assert (found["val_loss"], dict(search.genotype.choices)) == (
            pytest.approx(seen[epoch][0], rel=1e-6),
            seen[epoch][1],
        )
    fresh = SearchCallback()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[fresh],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    found = trainer.test(build(), loaders()[1], ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False, weights_only=True)[
        0
    ]
    assert found["val_loss"] == pytest.approx(seen[1][0], rel=1e-6) and dict(fresh.genotype.choices) == seen[1][1]


def test_alpha_sees_all_of_a_loader_whose_workers_persist(module):
    seen = []

    def loss(m, batch):
        seen.append(float(batch[0].sum()))
        return F.cross_entropy(m.net(batch[0]), batch[1])

    val = DataLoader(VAL, 4, num_workers=1, persistent_workers=True, multiprocessing_context="fork")  # 12 batches
    fit(module(), SearchCallback(arch_loss=loss), max_epochs=3, data=(loaders()[0], val), limit_train_batches=4)
    assert len(set(seen[:12])) == 12


def test_a_dry_run_writes_nothing(module, tmp_path):
    fit(module(), SearchCallback(warmup_epochs=1, out="run"), fast_dev_run=True)
    assert not (tmp_path / "run").exists()


class Listed(pl.LightningModule):
    """Its blocks are a list without a forward."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nas.choice(f"b{i}", {"plain": partial(nn.Linear, 16, 16), "none": nn.Identity}) for i in range(2)]
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def training_step(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def test_blocks_in_a_list_are_searched_within_limits(module):
    own, search = Listed(), SearchCallback(limits={"macs": 16 * 16 + 48}, arch_data=loaders()[1])
    fit(own, search, data=loaders()[:1])
    assert isinstance(search.network, Listed) and "none" in search.genotype.choices.values()
    assert own.eval()(VAL.tensors[0]).shape == (48, 3)

    class Direct(Listed):
        def training_step(self, batch):
            return F.cross_entropy(self.forward(batch[0]), batch[1])

    with pytest.raises(ValueError, match="the step did not call it as a whole; pass inputs="):
        fit(Direct(), SearchCallback(limits={"macs": 300}, arch_data=loaders()[1]), data=loaders()[:1])


def test_the_found_network_has_the_averaged_weights_of_a_callback(module):
    averaging = pl.callbacks.EMAWeightAveraging(decay=0.5)
    for order in (0, 1):
        own, search = module(), SearchCallback()
        fit(own, *(([search, averaging]) if order else [averaging, search]), max_epochs=1)
        assert torch.equal(search.network[-1].weight, own.net[-1].weight)
        averaging = pl.callbacks.EMAWeightAveraging(decay=0.5)


def test_bad_trainers_are_refused_in_one_line(module, tmp_path):
    search = SearchCallback()
    with pytest.raises(ValueError, match="StochasticWeightAveraging"):
        fit(module(), search, StochasticWeightAveraging(0.1))
    sharded = pl.Trainer(accelerator="cpu", strategy=ModelParallelStrategy(), logger=False)
    with pytest.raises(ValueError, match="cannot search under ModelParallelStrategy; use ddp"):
        search.setup(sharded, module(), "fit")
    with pytest.raises(ValueError, match="under precision 16-true; use bf16-mixed"):
        fit(module(), search, precision="16-true")
    with pytest.raises(ValueError, match="max_epochs or max_steps"):
        fit(module(), search, max_epochs=-1, max_time="00:00:01:00")
    with pytest.raises(ValueError, match="needs arch_data"):
        fit(module(), search, data=loaders()[:1])
    with pytest.raises(TypeError, match="relaxing"):
        SearchCallback(relaxing=3)
    with pytest.raises(ValueError, match="has not searched yet"):
        SearchCallback().genotype.choices  # noqa: B018

    class Nested(module):
        def training_step(self, batch, batch_idx):
            fit(module(), search)

    with pytest.raises(ValueError, match="nested Trainers need a callback each"):
        fit(Nested(), search)
    with pytest.raises(OSError, match="the server is away"):
        fit(module(), SearchCallback(out="run"), logger=Raising())
    assert not Path("run/manifest.json").exists()
    fit(module(), search)  # the callback is free again


def test_the_whole_module_can_be_the_network(module):
    class Whole(module):
        def forward(self, x):
            return self.net(x)

        def training_step(self, batch):
            return F.cross_entropy(self(batch[0]), batch[1])

    search = SearchCallback(network="", limits={"macs": 16 * 4 * 3 + 12})
    fit(Whole(), search, max_epochs=1)
    assert isinstance(search.network, Whole) and search.genotype.choices["conv"] != "kernel_7"
    x = VAL.tensors[0]
    assert torch.equal(search.network.eval()(x), search.network.net(x))


def test_losses_that_are_not_finite_end_the_search(module):
    class Broken(module):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            return (
                loss * float("nan") if self.trainer.global_step == 3 and torch.is_grad_enabled() and self.late else loss
            )

    own = Broken()
    own.late = True
    with pytest.raises(FloatingPointError, match="the loss of alpha is not finite at step 3"):
        fit(own, SearchCallback())
    with pytest.raises(FloatingPointError, match="the loss of training_step is not finite at batch 3"):
        fit(own, SearchCallback(arch_loss=lambda m, batch: F.cross_entropy(m.net(batch[0]), batch[1])))


def test_alpha_on_the_samples_of_the_weights_is_warned_of(module):
    train, val = loaders()
    with pytest.warns(UserWarning, match="arch_data has the samples that train the weights"):
        fit(module(), SearchCallback(arch_data=train), max_epochs=1, data=(train, val))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(module(), SearchCallback(), max_epochs=1)
    assert not any("arch_data" in str(warning.message) for warning in seen)
