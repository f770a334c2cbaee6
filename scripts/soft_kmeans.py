"""Clustering by gradient: k-means with relaxed assignments, alone on pixels and together with an encoder.

Command: python scripts/soft_kmeans.py --seeds 5-9

A point's assignment is a relaxed sample (`nas.sample`, GumbelSoftmax) of logits that are its negative squared distances to the centres,
scaled by the total variance; centres descend the expected squared distance while tau falls from 100 to 1, where the samples are as good as
hard. On the 1,797 digits of scikit-learn, beside its KMeans (the best of ten starts), by inertia (the sum of squared distances to the
nearest centre) and adjusted Rand index (agreement with the digits, 1 at best, 0 by chance).

The encoder learns that two warped copies of an image are the same and those of others are not (SimCLR: Chen et al. 2020, "A Simple
Framework for Contrastive Learning of Visual Representations"); after half of the steps the clustering of its code joins in, and both go
on together.

Labels are used for the adjusted Rand index alone. What the encoder learns by, and the weight of the clustering (0.5), were chosen by that
index on seeds 0-4, so its figure is of other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from studies import options_of, spread
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.relaxations import GumbelSoftmax
from nas.tau import Exponential, TauSchedule

NUM_CLUSTERS = 10
SCALE = 100.0
"""Of a squared distance as large as the total variance, in logits: twice as far is never drawn."""
SIDE, CODE, WEIGHT, CONTRAST = 8, 20, 0.5, 0.5


class SoftKMeans(nn.Module):
    """Centres; the expected squared distance of relaxed assignments, divided by the total variance."""

    def __init__(self, points: Tensor, generator: torch.Generator, num_clusters: int = NUM_CLUSTERS) -> None:
        """Puts the centres near the points' mean.

        Args:
            points: (N, D), for mean and variance.
            generator: Source of where exactly.
            num_clusters: How many centres.
        """
        super().__init__()
        noise = torch.randn(num_clusters, points.shape[1], generator=generator)
        self.centres = nn.Parameter(points.mean(0) + 0.1 * points.std(0).mean() * noise)
        self.variance: Tensor
        self.register_buffer("variance", points.var(0).sum())

    def forward(self, points: Tensor) -> Tensor:
        """(B, D) to a 0-d loss."""
        distances = torch.cdist(points, self.centres).square() / self.variance
        return (nas.sample(-SCALE * distances) * distances).sum(-1).mean()

    @torch.no_grad()
    def assigned(self, points: Tensor) -> tuple[Tensor, float]:
        """What a hard assignment comes to: the cluster of each point, and the inertia."""
        nearest = torch.cdist(points, self.centres).square().min(1)
        return nearest.indices, float(nearest.values.sum())


def tau_schedule() -> TauSchedule:
    return Exponential(start=100.0, end=1.0)


def clustered(points: Tensor, seed: int, num_steps: int) -> tuple[Tensor, float]:
    """Centres alone, every step on all points; returns clusters and inertia."""
    supernet = nas.Supernet(SoftKMeans(points, keyed_generator(seed, "centres")))
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
    """Each image turned (up to 0.3), sheared (0.3), stretched (by a fifth) and moved (a pixel).

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
    """How badly each code is told from the copies of all other images.

    Shape:
        - codes, others: (B, D), of length 1; row i of both is of image i
    """
    similarities = codes @ others.T / CONTRAST
    same = torch.arange(len(codes))
    return (F.cross_entropy(similarities, same) + F.cross_entropy(similarities.T, same)) / 2


def encoded(points: Tensor, seed: int, num_steps: int) -> Tensor:
    """Centres and an encoder learned together; returns clusters."""
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
            kmeans = SoftKMeans(codes, keyed_generator(seed, "centres"))
            supernet = nas.Supernet(kmeans)
            optimizer.add_param_group({"params": supernet.weight_parameters(), "lr": 0.02})
        if step >= first:
            progress = (step - first) / (num_steps - first)
            kmeans.variance.lerp_(code.detach().var(0).sum(), 0.01)  # no code is better for being dense
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
        method: What made it.
        inertia: Divided by that of scikit-learn's best; None in another space.
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
