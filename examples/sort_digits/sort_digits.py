"""Sorting images by the digits that they show: permutations relaxed by Gumbel-Sinkhorn.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.io.rng import derive_seed, keyed_generator
from nas.layers import SoftSort, permute
from nas.relaxations import GumbelSinkhorn, GumbelSoftmax, Relaxation
from nas.tau import Exponential

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import compared, digits, options_of, train

LENGTH = 5
NUM_IMAGES, NUM_LISTS = 96, 256  # of a training step
NUM_TEST_IMAGES, NUM_TEST_LISTS = 597, 2000
NUM_STEPS = 1200


def lists(train: bool, num_images: int, num_lists: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random lists of random images.

    Shape:
        - images: (N, 1, 8, 8)
        - members: (B, n), the images of each list
        - labels: (B, n), their digits
    """
    images, labels = digits(train)
    generator = keyed_generator(seed, f"lists/{train}", step)
    pool = torch.randperm(len(labels), generator=generator)[:num_images]
    members = torch.rand(num_lists, len(pool), generator=generator).topk(LENGTH).indices
    return images[pool], members, labels[pool][members]


def fits(labels: Tensor) -> Tensor:
    """Whether image i fits place j of the sorted list.

    Shape:
        - labels: (B, n)
        - result: (B, n, n) bool
    """
    return labels[:, :, None] == labels.sort(dim=-1).values[:, None, :]


def is_sorted(labels: Tensor, permutation: Tensor) -> Tensor:
    """Whether a permutation sorts each list.

    Shape:
        - labels: (B, n)
        - permutation: (B, n, n), element i at place j
        - result: (B,) bool
    """
    placed = (permutation * labels[:, :, None]).sum(1)
    return (placed.diff(dim=-1) >= 0).all(-1)


def backbone(num_outputs: int) -> nn.Module:
    """A small convolutional network on 8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(64 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, num_outputs),
    )


class Sorter(nn.Module):
    """Reads images and places those of each list: a relaxed permutation matrix in training, the best permutation in eval mode.

    Args:
        relaxation: Relaxes the permutation.
    """

    def __init__(self, relaxation: Relaxation) -> None:
        super().__init__()
        self.scores = backbone(LENGTH)
        self.sort = SoftSort(relaxation)

    def forward(self, images: Tensor, members: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) and lists of them (B, n) to permutation matrices (B, n, n)."""
        permutation: Tensor = self.sort(self.scores(images)[members])
        return permutation


def trained(relaxation: Relaxation, num_steps: int, seed: int) -> Sorter:
    """Trains a network by the places of sorted lists; in eval mode."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network = Sorter(relaxation)
    supernet, tau = nas.Supernet(network), Exponential(start=2.0, end=0.2)

    def loss(step: int) -> Tensor:
        images, members, labels = lists(True, NUM_IMAGES, NUM_LISTS, seed, step)
        generator = keyed_generator(seed, "noise", step)
        sample = supernet.sample(GumbelSoftmax(), tau(step / num_steps), generator=generator)
        places: Tensor = supernet(images, members, op_weights=sample)
        return -(places * fits(labels)).sum(1).clamp_min(1e-6).log().mean()

    train(supernet, loss, num_steps, seed)
    return network


def by_permutation(relaxation: Relaxation, num_steps: int, seed: int) -> float:
    """Share of test lists that are sorted by a network trained with relaxed permutations."""
    network = trained(relaxation, num_steps, seed)
    images, members, labels = lists(False, NUM_TEST_IMAGES, NUM_TEST_LISTS, seed, 0)
    with torch.no_grad():
        return float(is_sorted(labels, network(images, members)).float().mean())


def by_score(num_steps: int, seed: int) -> float:
    """Share of test lists that are sorted by one score for each image, trained on pairs (RankNet).

    Source: Burges et al. 2005, "Learning to Rank using Gradient Descent".
    """
    torch.manual_seed(derive_seed(seed, "weights"))
    network = backbone(1)

    def loss(step: int) -> Tensor:
        images, members, labels = lists(True, NUM_IMAGES, NUM_LISTS, seed, step)
        scores = network(images)[members, 0]
        differences = scores[:, :, None] - scores[:, None, :]
        larger = labels[:, :, None] > labels[:, None, :]
        return F.softplus(-differences[larger]).mean()

    train(network, loss, num_steps, seed)
    images, members, labels = lists(False, NUM_TEST_IMAGES, NUM_TEST_LISTS, seed, 0)
    with torch.no_grad():
        order = network(images)[members, 0].argsort(dim=-1)
    return float((labels.gather(1, order).diff(dim=-1) >= 0).all(-1).float().mean())


METHODS: dict[str, Callable[[int, int], float]] = {
    "Gumbel-Sinkhorn": partial(by_permutation, GumbelSinkhorn()),
    "separate rows (GumbelSoftmax)": partial(by_permutation, GumbelSoftmax()),
    "one score per image (RankNet)": by_score,
}


@torch.no_grad()
def draw(network: Sorter, seed: int, path: str) -> None:
    """Draws a test list, its relaxed permutation matrices at three taus, the best permutation, and the sorted list."""
    images, members, _ = lists(False, NUM_TEST_IMAGES, 1, seed, 0)
    scores, shown = network.scores(images)[members], images[members][:, :, 0]
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    axes = figure.subplots(1, 6)
    for axis, tau in zip(axes[1:4], (8.0, 2.0, 0.5), strict=True):
        axis.imshow(SoftSort(tau=tau)(scores)[0].numpy(), vmin=0, vmax=1, cmap="viridis")
        axis.set_title(f"tau {tau:g}")
    permutation = SoftSort().eval()(scores)
    axes[4].imshow(permutation[0].numpy(), vmin=0, vmax=1, cmap="viridis")
    axes[4].set_title("eval mode")
    for axis, column, title in ((axes[0], shown, "list"), (axes[5], permute(permutation, shown), "sorted")):
        axis.imshow(column[0].flatten(0, 1).numpy(), cmap="gray_r")
        axis.set_title(title)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[1:5]:
        axis.set_xlabel("place")
    axes[1].set_ylabel("image")
    figure.savefig(path, dpi=80)


def main() -> None:
    options = options_of(__doc__, num_steps=NUM_STEPS, has_picture=True)
    if options.picture:
        seed = options.seeds[0]
        draw(trained(GumbelSinkhorn(), options.num_steps, seed), seed, options.picture)
    print(compared(METHODS, ("relaxed by", "test lists sorted"), options))


if __name__ == "__main__":
    main()
