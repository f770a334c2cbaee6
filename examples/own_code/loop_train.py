"""Trains a convolutional network on scikit-learn's digits in a plain loop: the script before a search."""

import sys
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

NUM_EPOCHS, BATCH_SIZE = 20, 50
FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/loop"


def split() -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels: 900 for training, 450 for validation, 447 for the test."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split([900, 450, 447])
    return {name: (x[part], y[part]) for name, part in zip(("train", "val", "test"), order, strict=True)}


def batches(data: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, without end."""
    while True:
        for part in torch.randperm(len(data[0])).split(BATCH_SIZE):
            yield data[0][part], data[1][part]


class Block(nn.Sequential):
    """A convolution with batch norm and activation."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels), nn.ReLU())


class Net(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(channels) for i in range(2)])
        self.head = nn.Linear(channels * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.blocks(self.stem(x)), 4)
        return self.head(x.flatten(1))


@torch.no_grad()
def accuracy(net: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The share of correct predictions."""
    net.eval()
    share = (net(data[0]).argmax(1) == data[1]).float().mean()
    net.train()
    return share.item()


def main() -> None:
    torch.manual_seed(0)
    data = split()
    net: nn.Module = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    num_steps = NUM_EPOCHS * len(data["train"][0]) // BATCH_SIZE
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    train = batches(data["train"])
    for step in range(num_steps):
        x, y = next(train)
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if (step + 1) % 90 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, validation {accuracy(net, data['val']):.3f}")
    print(f"test: {accuracy(net, data['test']):.3f}")
    torch.save(net.state_dict(), f"{FOLDER}.pt")


if __name__ == "__main__":
    main()
