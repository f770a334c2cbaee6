"""Metrics of a search in the loggers of other packages, without a network."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import nas
from nas.lightning import SearchCallback

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]
WANTED = ("arch/loss", "search/tau", "choice/layer/plain", "val_loss")


class Module(pl.LightningModule):
    """A choice between two layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, 4), nas.choice("layer", {"plain": nn.ReLU, "smooth": nn.Tanh}), nn.Linear(4, 1)
        )

    def training_step(self, batch):
        return F.mse_loss(self.net(batch[0]), batch[0][:, :1])

    def validation_step(self, batch):
        self.log("val_loss", self.training_step(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(logger, folder):
    loader = DataLoader(TensorDataset(torch.randn(20, 3, generator=torch.Generator().manual_seed(0))), 5)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=logger,
        callbacks=[SearchCallback(arch_data=loader)],
        default_root_dir=folder,
        enable_progress_bar=False,
    )
    trainer.fit(Module(), loader, loader)
    return {name: float(trainer.callback_metrics[name]) for name in WANTED}


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from pytorch_lightning.loggers import WandbLogger

    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="nas")
    expected = fit(logger, tmp_path)
    summary = dict(logger.experiment.summary)
    wandb.finish()
    assert {name: summary[name] for name in WANTED} == pytest.approx(expected)
    assert list(tmp_path.rglob("*.wandb"))


def test_mlflow_in_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip("mlflow")
    from pytorch_lightning.loggers import MLFlowLogger

    logger = MLFlowLogger("nas", save_dir=str(tmp_path / "mlruns"))
    expected = fit(logger, tmp_path)
    metrics = logger.experiment.get_run(logger.run_id).data.metrics
    assert {name: metrics[name] for name in WANTED} == pytest.approx(expected)
