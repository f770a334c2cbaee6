"""Terrain costs learned from cheapest paths: a network that reads images, inside a differentiable shortest path.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import nas
import nas.layers
from nas.io.rng import derive_seed, keyed_generator
from nas.layers import ShortestPath, grid_edges
from nas.relaxations import GumbelSoftmax
from nas.tau import Exponential

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import compared, digits, options_of, train

SIDE = 6
CELLS = SIDE * SIDE
EDGES = grid_edges(SIDE, SIDE)
COSTS = torch.tensor([1.0, 2.0, 4.0, 7.0])
DIGITS = (0, 2, 4, 6)
NUM_TRAIN, NUM_TEST, BATCH, NUM_STEPS = 4000, 500, 32, 500


def grid_path(tau: float = 1.0, max_edges: int | None = None) -> ShortestPath:
    """Paths from the first cell to the last."""
    return ShortestPath(EDGES, 0, CELLS - 1, tau, max_edges)


def on_entering(costs: Tensor) -> Tensor:
    """Costs of cells (..., cells) to costs of edges (..., E): a cell is paid on entering."""
    return costs[..., EDGES[:, 1]]


class Grids(NamedTuple):
    """Grids and a cheapest path of each.

    Attributes:
        images: (N, cells, 64).
        costs: (N, E), true costs.
        edges: (N, E), 1 on the path.
        best: (N,), cost of the path.
    """

    images: Tensor
    costs: Tensor
    edges: Tensor
    best: Tensor


def grids(train: bool, number: int, seed: int) -> Grids:
    """Random grids of training or test images."""
    images, labels = digits(train)
    shown = labels[:, None] == torch.tensor(DIGITS)
    images, terrain = images[shown.any(1)].flatten(1), shown.int().argmax(1)[shown.any(1)]
    index = torch.randint(len(terrain), (number, CELLS), generator=keyed_generator(seed, f"grids/{train}"))
    costs = on_entering(COSTS[terrain[index]])
    path = grid_path().eval()(costs)
    return Grids(images[index], costs, *path)


class Pathfinder(nn.Module):
    """Prices images, and finds paths over these prices."""

    def __init__(self) -> None:
        super().__init__()
        hidden = (nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5))
        self.price = nn.Sequential(*hidden, nn.Linear(256, 1))
        self.path = grid_path(
            max_edges=3 * SIDE
        )  # a cheapest path takes about 2 * SIDE edges, and detours of one or two

    def costs(self, images: Tensor) -> Tensor:
        """Images (B, cells, 64) to costs of edges (B, E), above 0."""
        return on_entering(self.price(images).squeeze(-1).exp())

    def forward(self, images: Tensor) -> tuple[Tensor, nas.layers.Path]:
        """Images (B, cells, 64) to costs of edges (B, E) and paths."""
        costs = self.costs(images)
        return costs, self.path(costs)


def batch_of(data: Grids, seed: int, step: int) -> Grids:
    """Random grids of a training step."""
    index = torch.randint(NUM_TRAIN, (BATCH,), generator=keyed_generator(seed, "batch", step))
    return Grids(*(tensor[index] for tensor in data))


def by_likelihood(num_steps: int, seed: int) -> Pathfinder:
    """Trains prices by the likelihood of the paths among all paths."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network, shown = Pathfinder(), grids(True, NUM_TRAIN, seed)

    def loss(step: int) -> Tensor:
        batch = batch_of(shown, seed, step)
        costs, path = network(batch.images)
        return ((batch.edges * costs).sum(-1) - path.cost).mean() / network.path.tau

    train(network, loss, num_steps, seed)
    return network


def by_samples(num_steps: int, seed: int) -> Pathfinder:
    """Trains prices by the edges that relaxed samples of paths share with the given paths."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network, shown = Pathfinder(), grids(True, NUM_TRAIN, seed)
    supernet, tau = nas.Supernet(network), Exponential(start=2.0, end=0.2)

    def loss(step: int) -> Tensor:
        batch = batch_of(shown, seed, step)
        generator = keyed_generator(seed, "noise", step)
        sample = supernet.sample(GumbelSoftmax(), tau(step / num_steps), generator=generator)
        _, path = supernet(batch.images, op_weights=sample)
        return -path.edges[batch.edges == 1].clamp_min(1e-6).log().mean()

    train(supernet, loss, num_steps, seed)
    return network


def solved(costs: Tensor, best: Tensor) -> float:
    """Share of paths that are as cheap as the cheapest, at the true costs."""
    return float((costs <= best + 1e-4).float().mean())


def tested(learn: Callable[[int, int], Pathfinder]) -> Callable[[int, int], float]:
    """A function of the number of steps and the seed: the share of test grids that a network solves."""

    def score(num_steps: int, seed: int) -> float:
        network, data = learn(num_steps, seed), grids(False, NUM_TEST, seed)
        with torch.no_grad():
            _, path = network(data.images)
        return solved((path.edges * data.costs).sum(-1), data.best)

    return score


class Cloner(nn.Module):
    """Predicts the step of each cell from all images at once."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        self.grid = nn.Sequential(nn.Linear(CELLS * 8, 512), nn.ReLU(), nn.Linear(512, len(EDGES)))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, cells, 64) to logits of the edges of each cell, (B, cells, E); minus infinity for edges of other cells."""
        logits: Tensor = self.grid(self.cell(images).flatten(1))
        return logits[:, None].masked_fill(EDGES[:, 0] != torch.arange(CELLS)[:, None], -torch.inf)


def by_cloning(num_steps: int, seed: int) -> float:
    """Share of test grids solved by following the steps that a network predicts."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network, shown = Cloner(), grids(True, NUM_TRAIN, seed)

    def loss(step: int) -> Tensor:
        batch = batch_of(shown, seed, step)
        grid, edge = batch.edges.nonzero().unbind(1)
        return F.cross_entropy(network(batch.images)[grid, EDGES[edge, 0]], edge)

    train(network, loss, num_steps, seed)
    data = grids(False, NUM_TEST, seed)
    with torch.no_grad():
        return solved(cost_of_steps(network(data.images).argmax(-1), data.costs), data.best)


def cost_of_steps(steps: Tensor, costs: Tensor) -> Tensor:
    """The cost of following the edge chosen in each cell; infinity if this never ends.

    Shape:
        - steps: (B, cells), numbers of edges
        - costs: (B, E)
        - result: (B,)
    """
    cell, total = torch.zeros(len(steps), 1, dtype=torch.int64), torch.zeros(len(steps), 1)
    for _ in range(CELLS):
        edge = steps.gather(1, cell)
        is_last = cell == CELLS - 1
        total = torch.where(is_last, total, total + costs.gather(1, edge))
        cell = torch.where(is_last, cell, EDGES[edge, 1])
    return total.masked_fill(cell != CELLS - 1, torch.inf)[:, 0]


def equal_prices(num_steps: int, seed: int) -> float:
    """Share of test grids solved by a path with the fewest steps."""
    data = grids(False, NUM_TEST, seed)
    path = grid_path().eval()(torch.ones(len(EDGES)))
    return solved((path.edges * data.costs).sum(-1), data.best)


METHODS: dict[str, Callable[[int, int], float]] = {
    "likelihood of the paths (soft minimum)": tested(by_likelihood),
    "relaxed samples of paths (GumbelSoftmax)": tested(by_samples),
    "cloning, twice the steps": lambda num_steps, seed: by_cloning(2 * num_steps, seed),
    "equal prices": equal_prices,
}


@torch.no_grad()
def draw(network: Pathfinder, seed: int, path: str) -> None:
    """Draws a test grid with its cheapest path, the learned prices with the path over them, and the probability of each cell."""
    data = grids(False, 1, seed)
    costs, found = network(data.images)
    soft = grid_path(tau=float(costs.mean()) / 2)(costs)
    terrain = data.images[0].view(SIDE, SIDE, 8, 8).permute(0, 2, 1, 3).reshape(8 * SIDE, 8 * SIDE)
    entered = torch.zeros(CELLS).index_add(0, EDGES[:, 1], soft.edges[0])
    entered[0] = 1.0
    prices = network.price(data.images[0]).exp().view(SIDE, SIDE)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].imshow(terrain.numpy(), cmap="gray_r", extent=(-0.5, SIDE - 0.5, SIDE - 0.5, -0.5))
    axes[0].set_title("terrain, cheapest path")
    axes[1].imshow(prices.numpy(), cmap="cividis")
    axes[1].set_title("learned prices, path found")
    axes[2].imshow(entered.view(SIDE, SIDE).numpy(), cmap="viridis", vmin=0, vmax=1)
    axes[2].set_title("probability of each cell")
    for axis, edges in zip(axes, (data.edges[0], found.edges[0]), strict=False):
        for start, end in EDGES[edges == 1].tolist():
            axis.plot([start % SIDE, end % SIDE], [start // SIDE, end // SIDE], color="tab:red", linewidth=3)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=80)


def main() -> None:
    options = options_of(__doc__, seeds="5-9", num_steps=NUM_STEPS, has_picture=True)
    if options.picture:
        draw(by_likelihood(options.num_steps, options.seeds[0]), options.seeds[0], options.picture)
    print(compared(METHODS, ("steps by", "test grids solved"), options))


if __name__ == "__main__":
    main()
