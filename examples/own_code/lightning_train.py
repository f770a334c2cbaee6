"""Trains a temporal convolutional network on made-up sequences with Lightning: the script before a search."""

import math
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

LENGTH, NUM_CLASSES = 64, 4
FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/tcn"


def sequences(number: int, seed: int) -> TensorDataset:
    """Noisy waves; the class is the distance of an echo, which only a large receptive field can see."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, LENGTH, generator=generator)
    target = torch.randint(NUM_CLASSES, (number,), generator=generator)
    phase = 2 * math.pi * torch.rand(number, 1, generator=generator)
    wave = torch.sin(torch.arange(LENGTH) / 9 + phase)
    echo = torch.stack([noise[i].roll(int(4 * (target[i] + 1))) for i in range(number)])
    return TensorDataset((wave + noise + 0.8 * echo)[:, None], target)


class Data(pl.LightningDataModule):
    """Training and validation sequences."""

    def setup(self, stage: str) -> None:
        self.train, self.val = sequences(1200, 0), sequences(400, 1)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=64, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=100)


class Block(nn.Module):
    """A residual block of one dilated convolution."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(self.conv(x)).relu()


class TCN(pl.LightningModule):
    """A stem, residual blocks and a head."""

    def __init__(self, channels: int = 16, num_blocks: int = 3, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        blocks = [Block(channels, dilation=2**i) for i in range(num_blocks)]
        stem, head = nn.Conv1d(1, channels, 3, padding=1), nn.Linear(channels, NUM_CLASSES)
        self.net = nn.Sequential(stem, *blocks, nn.AdaptiveMaxPool1d(1), nn.Flatten(), head)
        self.accuracy = MulticlassAccuracy(NUM_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)

    def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.accuracy(logits, y)
        self.log("val_loss", nn.functional.cross_entropy(logits, y))
        self.log("val_accuracy", self.accuracy)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=1e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 8, 0.5)}


def main() -> None:
    pl.seed_everything(0)
    module = TCN()
    best = ModelCheckpoint(FOLDER, monitor="val_loss", save_last=True)
    trainer = pl.Trainer(
        max_epochs=20,
        accelerator="cpu",
        callbacks=[EarlyStopping("val_loss", patience=8), LearningRateMonitor(), best],
        logger=[TensorBoardLogger(FOLDER, "tensorboard"), CSVLogger(FOLDER, "csv")],
        log_every_n_steps=5,
    )
    trainer.fit(module, datamodule=Data())
    print(trainer.validate(module, datamodule=Data())[0])


if __name__ == "__main__":
    main()
