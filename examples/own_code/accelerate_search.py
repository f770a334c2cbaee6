"""Searches the hidden layers of a small network in a loop of Hugging Face accelerate."""

import sys
from itertools import cycle

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

import nas

NUM_EPOCHS = 12
FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate"


class Net(nn.Module):
    """Two hidden layers; width and activation of each are chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU})
        wide = {f"hidden_{n}": nn.Sequential(nn.Linear(32, n), nn.ReLU(), nn.Linear(n, 10)) for n in (4, 16, 64)}
        self.rest = nas.choice("rest", wide)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.act(self.first(x)))


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    train, val = random_split(data, [1200, 597])
    accelerator = Accelerator(cpu=True)
    net = Net()
    searcher = nas.Searcher(net, num_steps=NUM_EPOCHS * 24, limits={"macs": 3_000}, out=FOLDER)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    model, optimizer, loader, arch_loader = accelerator.prepare(
        net, optimizer, DataLoader(train, 50, shuffle=True), DataLoader(val, 50, shuffle=True)
    )
    arch = cycle(arch_loader)
    for _ in range(NUM_EPOCHS):
        for x, y in loader:
            searcher.arch_step(
                lambda x, y: F.cross_entropy(net(x), y), *next(arch)
            )  # not the wrapper of several processes
            with searcher.sampled():
                loss = F.cross_entropy(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    found = searcher.finish()
    x, y = val[:]
    print(searcher.genotype.choices, (found(x).argmax(1) == y).float().mean().item())


if __name__ == "__main__":
    main()
