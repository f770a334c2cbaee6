"""K-means by gradient: relaxed assignments of points to centers, on pixels and together with an encoder.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.layers import Clustering, SoftKMeans
from nas.relaxations import GumbelSoftmax
from nas.tau import Exponential, TauSchedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import options_of, spread

NUM_CLUSTERS = 10
SCALE = 100.0
"""Logits of a squared distance as large as the total variance; points twice as far are never drawn."""
SIDE, CODE, WEIGHT, CONTRAST = 8, 20, 0.5, 0.5


def tau_schedule() -> TauSchedule:
    return Exponential(start=100.0, end=1.0)


def variance_of(points: Tensor) -> Tensor:
    """Mean squared distance from the mean, 0-d."""
    return points.var(0).sum()


@torch.no_grad()
def start_near_mean(kmeans: SoftKMeans, points: Tensor, seed: int) -> None:
    """Moves the centers near to the mean, where a high tau would move them from any start."""
    noise = torch.randn(kmeans.centers.shape, generator=keyed_generator(seed, "centers"))
    kmeans.centers.copy_(points.mean(0) + 0.1 * points.std(0).mean() * noise)


@torch.no_grad()
def clusters_of(network: nn.Module, points: Tensor) -> tuple[Tensor, float]:
    """The nearest center of each point, and the inertia."""
    found: Clustering = network.eval()(points)
    return found.assignments.argmax(-1), float(found.distortion.sum())


def clustered(points: Tensor, seed: int, num_steps: int) -> SoftKMeans:
    """Trains centers alone, on all points at every step."""
    variance = variance_of(points)
    kmeans = SoftKMeans(NUM_CLUSTERS, points.shape[1], beta=SCALE / float(variance))
    start_near_mean(kmeans, points, seed)
    supernet, tau = nas.Supernet(kmeans), tau_schedule()
    optimizer = torch.optim.Adam(supernet.weight_parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for step in range(num_steps):
        generator = keyed_generator(seed, "noise", step)
        sample = supernet.sample(GumbelSoftmax(), tau(step / num_steps), generator=generator)
        optimizer.zero_grad()
        (supernet(points, op_weights=sample).distortion.mean() / variance).backward()
        optimizer.step()
        schedule.step()
    return kmeans


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


class Clusterer(nn.Module):
    """A network that clusters its own codes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = perceptron(SIDE**2, 256, 256, CODE)
        self.kmeans = SoftKMeans(NUM_CLUSTERS, CODE)

    def code(self, images: Tensor) -> Tensor:
        """Images (B, 64) to codes (B, D) of length 1."""
        return F.normalize(self.encoder(images), dim=1)

    def forward(self, images: Tensor) -> Clustering:
        found: Clustering = self.kmeans(self.code(images))
        return found


def encoded(points: Tensor, seed: int, num_steps: int) -> Clusterer:
    """Trains an encoder by contrast, and in the second half of the steps encoder and centers together."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network = Clusterer()
    supernet, kmeans = nas.Supernet(network), network.kmeans
    groups = [{"params": network.encoder.parameters(), "lr": 1e-3}, {"params": kmeans.parameters(), "lr": 0.02}]
    optimizer = torch.optim.Adam(groups)
    tau, first = tau_schedule(), num_steps // 2
    for step in range(num_steps):
        generator = keyed_generator(seed, "batch", step)
        batch = points[torch.randint(len(points), (256,), generator=generator)]
        views = [warped(batch, generator) for _ in range(2)]
        loss = contrast(*map(network.code, views))
        if step == first:
            codes = network.code(points).detach()
            variance = variance_of(codes)
            start_near_mean(kmeans, codes, seed)
        if step >= first:
            noise = keyed_generator(seed, "noise", step)
            sample = supernet.sample(GumbelSoftmax(), tau((step - first) / (num_steps - first)), generator=noise)
            variance.lerp_(variance_of(network.code(views[0])).detach(), 0.01)  # a dense code gets no lower loss
            kmeans.beta.copy_(SCALE / variance)
            loss = loss + WEIGHT * supernet(views[0], op_weights=sample).distortion.mean() / variance
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def digits_of_both_sets() -> tuple[Tensor, np.ndarray]:
    """All 1,797 images (N, 64), values in [0, 1], and their digits."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, labels


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
    points, labels = digits_of_both_sets()
    best = KMeans(NUM_CLUSTERS, n_init=10, random_state=seed).fit(points.numpy())
    clusters, inertia = clusters_of(clustered(points, seed, num_steps), points)
    joint, _ = clusters_of(encoded(points, seed, num_steps), points)
    return [
        Row("KMeans, best of 10", 1.0, adjusted_rand_score(labels, best.labels_)),
        Row("relaxed assignments", inertia / float(best.inertia_), adjusted_rand_score(labels, clusters)),
        Row("with an encoder", None, adjusted_rand_score(labels, joint)),
    ]


@torch.no_grad()
def draw(networks: Mapping[str, nn.Module], points: Tensor, path: str) -> None:
    """Draws each cluster as a row: the mean of its images, and the ten images nearest to its center."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    for axes, (title, network) in zip(figure.subplots(1, len(networks)), networks.items(), strict=True):
        found: Clustering = network.eval()(points)
        rows = []
        for k in range(NUM_CLUSTERS):
            nearest = found.squared_distances[:, k].topk(10, largest=False).indices
            mean = points[found.assignments[:, k] == 1].mean(0, keepdim=True).nan_to_num()
            images = torch.cat([mean, torch.zeros(1, SIDE**2), points[nearest]]).view(-1, SIDE, SIDE)
            rows.append(F.pad(images, (1, 1, 1, 1)))
        axes.imshow(
            torch.cat([torch.cat([*row], dim=1) for row in rows]).numpy(), cmap="gray_r", interpolation="nearest"
        )
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(path, dpi=80)


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
    options = options_of(__doc__, seeds="5-9", num_steps=1500, has_picture=True)
    if options.picture:
        seed, points = options.seeds[0], digits_of_both_sets()[0]
        networks = {
            "clusters of pixels": clustered(points, seed, options.num_steps),
            "clusters of learned codes": encoded(points, seed, options.num_steps),
        }
        draw(networks, points, options.picture)
    print(table([row for seed in options.seeds for row in compare(seed, options.num_steps)]))


if __name__ == "__main__":
    main()
