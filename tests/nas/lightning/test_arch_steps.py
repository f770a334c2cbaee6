"""The step of alpha in a Trainer: metrics, hooks and precision of the user."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

import nas
from nas.lightning import SearchCallback, split_loader

pytestmark = pytest.mark.filterwarnings("ignore:.*(many workers|logging interval|_pytree|LeafSpec|not resumable).*")


class Module(pl.LightningModule):
    """Logs metrics that Lightning computes and resets; one has sums as its state, the other one lists."""

    def __init__(self):
        super().__init__()
        layers = {"plain": partial(nn.Linear, 4, 3), "none": partial(nn.Linear, 4, 3, bias=False)}
        self.net = nn.Sequential(nas.choice("layer", layers))
        self.accuracy = MulticlassAccuracy(3, average="micro")
        self.area = MulticlassAUROC(3)

    def training_step(self, batch):
        x, y = batch
        logits = self.net(x)
        self.accuracy(logits, y)
        self.area(logits, y)
        self.log_dict({"accuracy": self.accuracy, "area": self.area}, on_step=False, on_epoch=True)
        loss = F.cross_entropy(logits, y)
        self.log("train_loss", loss)
        return {"loss": loss, "logits": logits.detach(), "y": y}

    def validation_step(self, batch):
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def loader(number, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (number,), generator=generator)
    return DataLoader(TensorDataset(torch.randn(number, 4, generator=generator) + F.one_hot(y, 4), y), 10)


def fit(module, *callbacks, **options):
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, loader(40, 0), loader(30, 1))
    return trainer


class Outputs(Callback):
    """Keeps what the training steps of the weights return in one epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((outputs["logits"], outputs["y"]))


def test_logged_metrics_count_the_batches_of_the_weights_alone():
    outputs = Outputs()
    trainer = fit(Module(), SearchCallback(), outputs)
    logits, y = map(torch.cat, zip(*outputs.seen, strict=True))
    assert len(y) == 40
    found = {name: float(trainer.callback_metrics[name]) for name in ("accuracy", "area")}
    accuracy = (logits.argmax(-1) == y).double().mean().item()
    area = roc_auc_score(y, logits.double().softmax(-1), multi_class="ovr")
    assert found == pytest.approx({"accuracy": accuracy, "area": area}, rel=1e-6)  # metrics count in float32


@pytest.mark.parametrize(("precision", "dtype"), [("64-true", torch.float64), ("bf16-mixed", torch.bfloat16)])
def test_batches_of_alpha_pass_the_hooks_and_the_precision_of_the_trainer(precision, dtype):
    seen = []

    class Hooked(Module):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [*batch, "before"]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [*batch, "after"]

        def training_step(self, batch):
            x, y, *hooks = batch
            logits = self.net(x)
            seen.append((hooks, logits.dtype))
            return F.cross_entropy(logits, y)

        def validation_step(self, batch):
            pass

    fit(Hooked(), SearchCallback(), precision=precision)
    weights_and_alpha = 2 * 2 * 4
    assert seen == [(["before", "after"], dtype)] * weights_and_alpha


def test_the_headline_of_a_run_is_a_metric_of_the_validation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = fit(Module(), SearchCallback(out="run"))
    assert next(iter(trainer.callback_metrics)) == "train_loss"
    metric = nas.Run("run").summary["metric"]
    assert (metric["name"], metric["value"]) == ("val_loss", pytest.approx(float(trainer.callback_metrics["val_loss"])))


def test_both_loaders_of_a_split_yield_batches_as_before():
    both = split_loader(DataLoader(range(21), 4, drop_last=True, collate_fn=tuple, shuffle=True), seed=3)
    for part in both:
        first, second = list(part), list(part)
        assert {len(batch) for batch in first} == {4} and type(first[0]) is tuple
        assert first != second  # shuffled
    again = split_loader(DataLoader(range(21), 4), seed=3)
    other = split_loader(DataLoader(range(21), 4), seed=4)
    assert [part.dataset.indices for part in again] == [part.dataset.indices for part in both]
    assert other[0].dataset.indices != both[0].dataset.indices
