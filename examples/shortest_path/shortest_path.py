"""Terrain costs learned from cheapest paths, through a relaxed shortest-path algorithm.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.io.rng import derive_seed, keyed_generator
from nas.relaxations import GumbelSoftmax, Relaxation, Softmax
from nas.tau import Exponential

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import compared, digits, options_of, train

SIDE = 6
CELLS = SIDE * SIDE
COSTS = torch.tensor([1.0, 2.0, 4.0, 7.0])
DIGITS = (0, 2, 4, 6)
NUM_TRAIN, NUM_TEST, BATCH, NUM_STEPS = 4000, 500, 32, 1000
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
FAR = 1e4
"""Cost of a step out of the grid."""


def neighbours(side: int) -> tuple[Tensor, Tensor]:
    """The cell after each step, and whether that cell is inside the grid.

    Shape:
        - both results: (side * side, 4)
    """
    places = [[(row + down, column + right) for down, right in STEPS] for row in range(side) for column in range(side)]
    inside = torch.tensor([[0 <= r < side and 0 <= c < side for r, c in cell] for cell in places])
    cells = torch.tensor([[r * side + c for r, c in cell] for cell in places])
    return torch.where(inside, cells, 0), inside


class Grids(NamedTuple):
    """Grids and a cheapest path of each.

    Attributes:
        images: (N, cells, 64).
        costs: (N, cells), true costs.
        steps: (N, cells), number of the path's step from a cell; -1 for cells off the path.
        best: (N,), cost of the path.
    """

    images: Tensor
    costs: Tensor
    steps: Tensor
    best: Tensor


def cheapest_path(costs: np.ndarray, side: int) -> list[int]:
    """Dijkstra's path from the first cell to the last, both included; a cost is paid on entering a cell.

    Source: Dijkstra 1959, by scipy.
    """
    cells, inside = (tensor.numpy() for tensor in neighbours(side))
    starts = np.repeat(np.arange(side * side), 4)[inside.ravel()]
    ends = cells.ravel()[inside.ravel()]
    graph = csr_matrix((costs[ends], (starts, ends)), shape=(side * side, side * side))
    _, before = dijkstra(graph, indices=0, return_predecessors=True)
    path = [side * side - 1]
    while path[-1] != 0:
        path.append(int(before[path[-1]]))
    return path[::-1]


def grids(train: bool, number: int, seed: int) -> Grids:
    """Random grids of training or test images."""
    images, labels = digits(train)
    shown = labels[:, None] == torch.tensor(DIGITS)
    images, terrain = images[shown.any(1)].flatten(1), shown.int().argmax(1)[shown.any(1)]
    index = torch.randint(len(terrain), (number, CELLS), generator=keyed_generator(seed, f"grids/{train}"))
    costs = COSTS[terrain[index]]
    cells, _ = neighbours(SIDE)
    steps, best = torch.full((number, CELLS), -1), []
    for i, grid in enumerate(costs.numpy()):
        path = cheapest_path(grid, SIDE)
        best.append(float(grid[path[1:]].sum()))
        for cell, following in pairwise(path):
            steps[i, cell] = int((cells[cell] == following).nonzero()[0])
    return Grids(images[index], costs, steps, torch.tensor(best))


def step_weights(prices: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Bellman and Ford's recursion with relaxed choices of the step; to be called inside a supernet.

    Args:
        prices: Prices of entering the cells, above 0.
        side: Side of the grid.

    Shape:
        - prices: (B, cells)
        - first result: (B, cells), cost from each cell to the last cell
        - second result: (B, cells, 4), weights of the steps
    """
    cells, inside = neighbours(side)
    price = prices[:, cells].masked_fill(~inside, FAR)
    last = torch.zeros(side * side, dtype=torch.bool)
    last[-1] = True
    value = prices.new_full(prices.shape, FAR).masked_fill(last, 0.0)
    for _ in range(3 * side):  # a cheapest path takes about 2 * side steps, and detours of one or two
        costs = price + value[:, cells]
        weights = nas.sample(-costs)
        value = (weights * costs).sum(-1).masked_fill(last, 0.0)
    return value, weights


class Pricer(nn.Module):
    """Prices images; in training, finds relaxed steps over these prices."""

    def __init__(self) -> None:
        super().__init__()
        hidden = (nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5))
        self.price = nn.Sequential(*hidden, nn.Linear(256, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, cells, 64) to weights of steps (B, cells, 4); in eval mode to prices (B, cells)."""
        prices: Tensor = self.price(images).squeeze(-1).exp()
        return step_weights(prices, SIDE)[1] if self.training else prices


class Cloner(nn.Module):
    """Predicts the step of each cell from all images at once."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        self.grid = nn.Sequential(nn.Linear(CELLS * 8, 512), nn.ReLU(), nn.Linear(512, CELLS * 4))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, cells, 64) to logits (B, cells, 4)."""
        logits: Tensor = self.grid(self.cell(images).flatten(1))
        return logits.view(-1, CELLS, 4)


def batch_of(data: Grids, seed: int, step: int) -> Grids:
    """Random grids of a training step."""
    index = torch.randint(NUM_TRAIN, (BATCH,), generator=keyed_generator(seed, "batch", step))
    return Grids(*(tensor[index] for tensor in data))


def by_prices(relaxation: Relaxation, num_steps: int, seed: int) -> float:
    """Share of test grids solved with learned prices."""
    torch.manual_seed(derive_seed(seed, "weights"))
    supernet = nas.Supernet(Pricer())
    tau, shown = Exponential(start=2.0, end=0.2), grids(True, NUM_TRAIN, seed)

    def loss(step: int) -> Tensor:
        batch = batch_of(shown, seed, step)
        generator = keyed_generator(seed, "noise", step)
        sample = supernet.sample(relaxation, tau(step / num_steps), generator=generator)
        weights: Tensor = supernet(batch.images, op_weights=sample)
        on_path = batch.steps >= 0
        taken = weights[on_path].gather(1, batch.steps[on_path][:, None])
        return -taken.clamp_min(1e-6).log().mean()

    train(supernet, loss, num_steps, seed)
    data = grids(False, NUM_TEST, seed)
    with torch.no_grad():
        prices = supernet.network(data.images).numpy()
    return solved(data, [cheapest_path(price, SIDE) for price in prices])


def by_cloning(num_steps: int, seed: int) -> float:
    """Share of test grids solved by following the steps that a network predicts."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network, shown = Cloner(), grids(True, NUM_TRAIN, seed)

    def loss(step: int) -> Tensor:
        batch = batch_of(shown, seed, step)
        on_path = batch.steps >= 0
        return F.cross_entropy(network(batch.images)[on_path], batch.steps[on_path])

    train(network, loss, num_steps, seed)
    data = grids(False, NUM_TEST, seed)
    cells, inside = neighbours(SIDE)
    with torch.no_grad():
        predicted = network(data.images).masked_fill(~inside, -torch.inf).argmax(-1)
    return solved(data, [followed(steps, cells) for steps in predicted])


def followed(steps: Tensor, cells: Tensor) -> list[int]:
    """The path along these steps, cut off after as many steps as there are cells."""
    path = [0]
    while path[-1] != CELLS - 1 and len(path) <= CELLS:
        path.append(int(cells[path[-1], steps[path[-1]]]))
    return path


def equal_prices(num_steps: int, seed: int) -> float:
    """Share of test grids solved by a path with the fewest steps."""
    data = grids(False, NUM_TEST, seed)
    return solved(data, [cheapest_path(np.ones(CELLS), SIDE)] * NUM_TEST)


def solved(data: Grids, paths: Sequence[Sequence[int]]) -> float:
    """Share of paths that reach the last cell at the lowest cost."""
    good = [
        path[-1] == CELLS - 1 and float(costs[list(path[1:])].sum()) <= float(best) + 1e-4
        for costs, best, path in zip(data.costs, data.best, paths, strict=True)
    ]
    return sum(good) / len(good)


METHODS: dict[str, Callable[[int, int], float]] = {
    "relaxed steps (GumbelSoftmax)": partial(by_prices, GumbelSoftmax()),
    "relaxed steps without noise (Softmax)": partial(by_prices, Softmax()),
    "cloning": by_cloning,
    "equal prices": equal_prices,
}


def main() -> None:
    print(compared(METHODS, ("steps by", "test grids solved"), options_of(__doc__, num_steps=NUM_STEPS)))


if __name__ == "__main__":
    main()
