"""Sorting lists of images by the numbers they show, learned from sorted lists alone: permutations relaxed by Gumbel-Sinkhorn.

Command: python scripts/sort_digits.py --seeds 0-2

Five of scikit-learn's 8x8 digits make a list: training images in training (1,200), test images at the end (2,000 lists of 597 images, drawn
once a seed). A convolutional network scores each image for each place. In training the scores become a relaxed permutation matrix, tau
annealed from 2 to 0.2, and the loss is the negative logarithm of the mass that each place gets from images that may stand there: which
ones may is all that is told of a list, not its digits. At the end the best permutation is taken; a list counts as sorted when all five
places are right, equal digits in any order.

Beside it the same network trained the same way with each row relaxed for itself (GumbelSoftmax), which does not know that a place is taken
once, its best permutation taken in the same way; and one score for each image, trained on pairs of neighbours (RankNet) and sorted by.

Dropout (a half) was chosen on held-out training images, seeds 20-22.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from studies import compared, options_of, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import nas
from nas.data import Digits
from nas.io.rng import derive_seed, keyed_generator
from nas.relaxations import GumbelSinkhorn, GumbelSoftmax, Relaxation, hard_permutation
from nas.tau import Exponential

LENGTH = 5
NUM_IMAGES, NUM_LISTS = 96, 256
"""Of a training step."""
NUM_TEST_IMAGES, NUM_TEST_LISTS = 597, 2000
NUM_STEPS = 1200


def images_and_labels(train: bool) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) and digits (N,)."""
    dataset = Digits().train_set(False) if train else Digits().test_set()
    assert isinstance(dataset, TensorDataset)
    images, labels = dataset.tensors
    return images, labels


def lists(train: bool, num_images: int, num_lists: int, seed: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random lists of random images.

    Shape:
        - images: (N, 1, 8, 8)
        - members: (B, n), the images of each list
        - labels: (B, n), their digits
    """
    images, labels = images_and_labels(train)
    generator = keyed_generator(seed, f"lists/{train}", step)
    pool = torch.randperm(len(labels), generator=generator)[:num_images]
    members = torch.rand(num_lists, len(pool), generator=generator).topk(LENGTH).indices
    return images[pool], members, labels[pool][members]


def fits(labels: Tensor) -> Tensor:
    """Whether image i may stand at place j of the sorted list.

    Shape:
        - labels: (B, n)
        - result: (B, n, n) bool
    """
    return labels[:, :, None] == labels.sort(dim=-1).values[:, None, :]


def is_sorted(labels: Tensor, permutation: Tensor) -> Tensor:
    """Whether a permutation sorts each list: no place before a smaller one.

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
    """Places for the images of each list: relaxed while training, scores otherwise."""

    def __init__(self) -> None:
        """Builds the network."""
        super().__init__()
        self.scores = backbone(LENGTH)

    def forward(self, images: Tensor, members: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) and lists of them (B, n) to (B, n, n)."""
        scores: Tensor = self.scores(images)[members]
        return nas.sample(scores) if self.training else scores


def by_permutation(relaxation: Relaxation, num_steps: int, seed: int) -> float:
    """Share of the test lists that are sorted, with permutations relaxed in training."""
    torch.manual_seed(derive_seed(seed, "weights"))
    supernet = nas.Supernet(Sorter())
    tau = Exponential(start=2.0, end=0.2)

    def loss(step: int) -> Tensor:
        images, members, labels = lists(True, NUM_IMAGES, NUM_LISTS, seed, step)
        generator = keyed_generator(seed, "noise", step)
        weights = supernet.sample(relaxation, tau(step / num_steps), generator=generator)
        places: Tensor = supernet(images, members, op_weights=weights)
        return -(places * fits(labels)).sum(1).clamp_min(1e-6).log().mean()

    train(supernet, loss, num_steps, seed)
    images, members, labels = lists(False, NUM_TEST_IMAGES, NUM_TEST_LISTS, seed, 0)
    with torch.no_grad():
        return float(is_sorted(labels, hard_permutation(supernet.network(images, members))).float().mean())


def by_score(num_steps: int, seed: int) -> float:
    """Share of the test lists that one score for each image sorts, trained on pairs of a list.

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
    "rows for themselves (GumbelSoftmax)": partial(by_permutation, GumbelSoftmax()),
    "one score, pairs (RankNet)": by_score,
}


def main() -> None:
    print(compared(METHODS, ("relaxed by", "test lists sorted"), options_of(__doc__, num_steps=NUM_STEPS)))


if __name__ == "__main__":
    main()
