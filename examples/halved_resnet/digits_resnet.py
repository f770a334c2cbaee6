"""A ResNet-18 that reads digits, its data, and its training; README.md beside this file makes the network smaller."""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

NUM_TRAIN = 1_200


def build() -> nn.Module:
    """The network: ResNet-18 of torchvision for ten classes."""
    return resnet18(num_classes=10)


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The training set and the test set of scikit-learn's digits, as images of 3 x 32 x 32."""
    bunch = load_digits()
    small = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    x, y = F.interpolate(small, 32, mode="bilinear").repeat(1, 3, 1, 1), torch.tensor(bunch.target)
    return (x[:NUM_TRAIN], y[:NUM_TRAIN]), (x[NUM_TRAIN:], y[NUM_TRAIN:])


def train(network: nn.Module, num_steps: int) -> None:
    """Trains by AdamW with one cycle of the learning rate."""
    (x, y), _ = digits()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=num_steps)
    for _ in range(num_steps):
        batch = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        F.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=200)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = build()
    train(network, options.num_steps)
    torch.save(network.state_dict(), "resnet.pt")


if __name__ == "__main__":
    main()
