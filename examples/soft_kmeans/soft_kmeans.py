"""K-means by gradient: relaxed assignments of points to centers, on pixels and together with an encoder.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.relaxations import GumbelSoftmax
from nas.tau import Exponential, TauSchedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import options_of, spread

NUM_CLUSTERS = 10
SCALE = 100.0
"""Logits of a squared distance as large as the total variance; points twice as far are never drawn."""
SIDE, CODE, WEIGHT, CONTRAST = 8, 20, 0.5, 0.5


class SoftKMeans(nn.Module):
    """Cluster centers; the loss is the expected squared distance of relaxed assignments, divided by the total variance.

    Args:
        points: (N, D); the centers start near their mean.
        generator: Source of the random start.
        num_clusters: Number of centers.
    """

    def __init__(self, points: Tensor, generator: torch.Generator, num_clusters: int = NUM_CLUSTERS) -> None:
        super().__init__()
        noise = torch.randn(num_clusters, points.shape[1], generator=generator)
        self.centers = nn.Parameter(points.mean(0) + 0.1 * points.std(0).mean() * noise)
        self.variance: Tensor
        self.register_buffer("variance", points.var(0).sum())

    def forward(self, points: Tensor) -> Tensor:
        """(B, D) to a 0-d loss."""
        distances = torch.cdist(points, self.centers).square() / self.variance
        return (nas.sample(-SCALE * distances) * distances).sum(-1).mean()

    @torch.no_grad()
    def assigned(self, points: Tensor) -> tuple[Tensor, float]:
        """The nearest center of each point, and the inertia."""
        nearest = torch.cdist(points, self.centers).square().min(1)
        return nearest.indices, float(nearest.values.sum())


def tau_schedule() -> TauSchedule:
    return Exponential(start=100.0, end=1.0)


def clustered(points: Tensor, seed: int, num_steps: int) -> tuple[Tensor, float]:
    """Trains centers alone, on all points at every step; returns clusters and inertia."""
    supernet = nas.Supernet(SoftKMeans(points, keyed_generator(seed, "centers")))
    relaxation, tau = GumbelSoftmax(), tau_schedule()
    optimizer = torch.optim.Adam(supernet.weight_parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for step in range(num_steps):
        generator = keyed_generator(seed, "noise", step)
        sample = supernet.sample(relaxation, tau(step / num_steps), generator=generator)
        optimizer.zero_grad()
        supernet(points, op_weights=sample).backward()
        optimizer.step()
        schedule.step()
    return supernet.network.assigned(points)  # type: ignore[operator]


def perceptron(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between."""
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def warped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotates (up to 0.3), shears (0.3), stretches (by a fifth) and shifts (by a pixel) each image.

    Shape:
        - images, result: (B, 64)
    """
    limits = torch.tensor([0.3, 0.3, 0.2, 0.2, 0.25, 0.25])
    turn, shear, wide, high, right, down = (
        (torch.rand(6, len(images), generator=generator) * 2 - 1) * limits[:, None]
    ).unbind()
    rows = [
        torch.stack([(1 + wide) * turn.cos(), shear - (1 + high) * turn.sin(), right], dim=-1),
        torch.stack([(1 + wide) * turn.sin(), (1 + high) * turn.cos(), down], dim=-1),
    ]
    shape = [len(images), 1, SIDE, SIDE]
    grid = F.affine_grid(torch.stack(rows, dim=1), shape, align_corners=False)
    return F.grid_sample(images.view(shape), grid, align_corners=False).flatten(1)


def contrast(codes: Tensor, others: Tensor) -> Tensor:
    """Cross-entropy of recognizing each image's copy among the copies of all images.

    Shape:
        - codes, others: (B, D), of length 1; row i of both is of image i
    """
    similarities = codes @ others.T / CONTRAST
    same = torch.arange(len(codes))
    return (F.cross_entropy(similarities, same) + F.cross_entropy(similarities.T, same)) / 2


def encoded(points: Tensor, seed: int, num_steps: int) -> Tensor:
    """Trains centers and an encoder together; returns clusters."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network = perceptron(SIDE**2, 256, 256, CODE)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    relaxation, tau, first = GumbelSoftmax(), tau_schedule(), num_steps // 2
    for step in range(num_steps):
        generator = keyed_generator(seed, "batch", step)
        batch = points[torch.randint(len(points), (256,), generator=generator)]
        code, other = (F.normalize(network(warped(batch, generator)), dim=1) for _ in range(2))
        loss = contrast(code, other)
        if step == first:
            with torch.no_grad():
                codes = F.normalize(network(points), dim=1)
            kmeans = SoftKMeans(codes, keyed_generator(seed, "centers"))
            supernet = nas.Supernet(kmeans)
            optimizer.add_param_group({"params": supernet.weight_parameters(), "lr": 0.02})
        if step >= first:
            progress = (step - first) / (num_steps - first)
            kmeans.variance.lerp_(code.detach().var(0).sum(), 0.01)  # a dense code gets no lower loss
            sample = supernet.sample(relaxation, tau(progress), generator=keyed_generator(seed, "noise", step))
            loss = loss + WEIGHT * supernet(code, op_weights=sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return kmeans.assigned(F.normalize(network(points), dim=1))[0]


class Row(NamedTuple):
    """One clustering.

    Attributes:
        method: Name of the method.
        inertia: Inertia divided by that of scikit-learn's best; None in another space.
        agreement: Adjusted Rand index.
    """

    method: str
    inertia: float | None
    agreement: float


def compare(seed: int, num_steps: int) -> list[Row]:
    """All methods on one seed."""
    images, labels = load_digits(return_X_y=True)
    points = torch.tensor(images, dtype=torch.float32) / 16
    best = KMeans(NUM_CLUSTERS, n_init=10, random_state=seed).fit(points.numpy())
    clusters, inertia = clustered(points, seed, num_steps)
    joint = encoded(points, seed, num_steps)
    return [
        Row("KMeans, best of 10", 1.0, adjusted_rand_score(labels, best.labels_)),
        Row("relaxed assignments", inertia / float(best.inertia_), adjusted_rand_score(labels, clusters)),
        Row("with an encoder", None, adjusted_rand_score(labels, joint)),
    ]


def table(rows: Sequence[Row]) -> str:
    """Mean ± standard deviation of every method over its seeds."""
    cells = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        inertias = [row.inertia for row in mine if row.inertia is not None]
        cells.append(
            (method, spread(inertias, ".4f") if inertias else "-", spread([row.agreement for row in mine], ".3f"))
        )
    return markdown_table(("clusters", "inertia", "adjusted Rand index"), cells)


def main() -> None:
    options = options_of(__doc__, seeds="5-9", num_steps=1500)
    print(table([row for seed in options.seeds for row in compare(seed, options.num_steps)]))


if __name__ == "__main__":
    main()
