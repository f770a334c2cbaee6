"""The network, the data and the training that all methods of scripts/compress.py share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import FashionMNIST

from nas.compression.config import TEACHING
from nas.tasks import Classification, Distillation

BATCH_SIZE = 128
SHIFT = 2


def resnet18() -> nn.Module:
    """A ResNet-18 of timm for small grey images: 16 to 128 channels, a stem of 3 x 3 with stride 2, and no pooling after it."""
    network: nn.Module = timm.create_model("resnet18", num_classes=10, in_chans=1, channels=(16, 32, 64, 128))
    network.conv1 = nn.Conv2d(1, 64, 3, 2, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def small() -> nn.Module:
    """The same for images of 14 x 14 pixels, which a mean of 2 x 2 makes, with a stem of stride 1."""
    network: nn.Module = resnet18()
    network.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    return nn.Sequential(nn.AvgPool2d(2), network)


class Samples(NamedTuple):
    """Normalized images (N, 1, 28, 28) and their labels (N)."""

    images: Tensor
    labels: Tensor


def load(root: Path, train: bool) -> Samples:
    """Fashion-MNIST as torchvision keeps the files under `root`."""
    data = FashionMNIST(str(root), train=train)
    return Samples((data.data[:, None].float() / 255 - 0.286) / 0.353, data.targets)


def fresh(network: nn.Module, seed: int) -> nn.Module:
    """The network with new random weights."""
    torch.manual_seed(seed)
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return network


def batches(samples: Samples, seed: int, *, augment: bool = True) -> Iterator[Samples]:
    """The samples in the order of `seed`, each image flipped and shifted at random by up to `SHIFT` pixels."""
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.randperm(len(samples.labels), generator=generator).split(BATCH_SIZE):
        images = samples.images[rows]
        if augment:
            flips = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
            images = F.pad(torch.where(flips, images.flip(3), images), [SHIFT] * 4, value=float(samples.images.min()))
            down, right = torch.randint(2 * SHIFT + 1, (2, 1), generator=generator).flatten().tolist()
            images = images[..., down : down + 28, right : right + 28]
        yield Samples(images.contiguous(memory_format=torch.channels_last), samples.labels[rows])


def fit(
    network: nn.Module,
    samples: Samples,
    *,
    epochs: int,
    lr: float,
    seed: int,
    teacher: nn.Module | None = None,
) -> None:
    """Trains a network in place: SGD with momentum, a linear warm-up over a tenth of the steps, and a cosine to 0.

    Args:
        network: The network.
        samples: Training images.
        epochs: Number of passes.
        lr: Largest learning rate.
        seed: Decides the order of the samples and their augmentation.
        teacher: Teaches as in ``nas compress``.
    """
    task = None
    if teacher is not None:
        task = Distillation(Classification(10), **TEACHING["init_args"])
        task.teach(teacher)
    network.to(memory_format=torch.channels_last).train()
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    steps = epochs * -(-len(samples.labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    for epoch in range(epochs):
        for images, labels in batches(samples, 1000 * seed + epoch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images).float()
            if task is None:
                loss = F.cross_entropy(logits, labels)
            else:
                with torch.autocast("cpu", torch.bfloat16):
                    target = task.prepare((images,), labels)
                loss = task.loss(logits, target._replace(output=target.output.float()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(network: nn.Module, samples: Samples) -> float:
    """The share of samples with the right class, in eval mode."""
    network.to(memory_format=torch.channels_last).eval()
    parts = zip(samples.images.split(500), samples.labels.split(500), strict=True)
    return sum(int((network(images).argmax(1) == labels).sum()) for images, labels in parts) / len(samples.labels)
