"""Trains an image network with mixup in its training step, by Lightning: the script before a search."""

import sys

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

NUM_EPOCHS = 15
FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/mixup"


class Digits(pl.LightningDataModule):
    """scikit-learn's digits: 1,200 images for training, 597 for validation."""

    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        data = TensorDataset(x, torch.tensor(labels))
        self.train, self.val = random_split(data, [1200, 597], torch.Generator().manual_seed(0))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=60, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=200)


class SqueezeExcite(nn.Module):
    """Scales channels by their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x.mean((2, 3)))[..., None, None]


class Stage(nn.Module):
    """A residual convolution with attention to channels."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(channels)
        self.attention = SqueezeExcite(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(self.norm(self.conv(x)).relu())


class ImageNet(pl.LightningModule):
    """A stem, stages and a head, trained with mixup."""

    def __init__(self, channels: int = 12, num_stages: int = 3, alpha: float = 0.4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.alpha = alpha
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.stages = nn.Sequential(*[Stage(channels) for _ in range(num_stages)])
        self.head = nn.Linear(channels * 4, 10)
        self.accuracy = MulticlassAccuracy(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(self.stages(self.stem(x)), 4).flatten(1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        share = float(np.random.beta(self.alpha, self.alpha))
        other = torch.randperm(len(x), device=x.device)
        logits = self(share * x + (1 - share) * x[other])
        loss = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[other])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.accuracy(self(x), y)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)


def main() -> None:
    pl.seed_everything(0)
    module, data = ImageNet(), Digits()
    trainer = pl.Trainer(max_epochs=NUM_EPOCHS, accelerator="cpu", default_root_dir=FOLDER, logger=False)
    trainer.fit(module, data)
    print(trainer.validate(module, data)[0])


if __name__ == "__main__":
    main()
