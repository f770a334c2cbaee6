"""A mixture of experts: digits in four versions, and small experts of which one of four runs for an image.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.costs.functions import count_macs, num_params
from nas.drawing.svg import svg_text
from nas.io.files import write_atomic
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.layers import Routed, balance_losses
from nas.relaxations import GumbelSoftmax, Relaxation, Softmax

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import digits, options_of, spread, train

NUM_EXPERTS, HIDDEN, NUM_CLASSES, BATCH = 4, 16, 10, 128
NUM_VALIDATION = 300
TAU = 1.0
VERSIONS = ("upright", "turned", "upright, inverted", "turned, inverted")
PICTURE = Path(__file__).with_suffix(".svg")


class Data(NamedTuple):
    """Images in four versions: (4, N, 64), and labels: (N,)."""

    images: Tensor
    labels: Tensor


class Method(NamedTuple):
    """A mixture.

    Attributes:
        k: Number of experts that run for an image.
        relaxation: Draws the weights of the experts.
        balance: Weight of the load balance loss.
    """

    k: int
    relaxation: Relaxation
    balance: float = 0.0


METHODS = {
    "routed, 1 of 4 experts": Method(1, GumbelSoftmax(), 1.0),
    "dense, all 4 experts": Method(4, Softmax()),
}
WIDTHS = {"one expert": HIDDEN, "one wide network": 5 * HIDDEN}
"""Networks without a gate: name -> hidden units. The wide network has at least the parameters of the mixture."""


class Row(NamedTuple):
    """One trained network.

    Attributes:
        method: Name of the method.
        accuracy: Share of images, in all versions, that are recognized.
        macs: Multiply-accumulates of the experts for an image.
        params: Number of parameters.
        shares: Share of each version's images that run through each expert, (4, n); None without a gate.
    """

    method: str
    accuracy: float
    macs: float
    params: int
    shares: Tensor | None = None


def versions(images: Tensor) -> Tensor:
    """Images, the same turned by a quarter, and both with black and white exchanged.

    Shape:
        - images: (N, 1, 8, 8)
        - result: (4, N, 64)
    """
    turned = images.rot90(1, (-2, -1))
    return torch.stack([images, turned, 1 - images, 1 - turned]).flatten(2)


def data_of(is_validation: bool) -> tuple[Data, Data]:
    """Training data, and test data or a part of the training set that is held out for validation."""
    images, labels = digits(train=True)
    data = Data(versions(images), labels)
    if not is_validation:
        images, labels = digits(train=False)
        return data, Data(versions(images), labels)
    parts = [len(labels) - NUM_VALIDATION, NUM_VALIDATION]
    first, second = (Data(*pair) for pair in zip(data.images.split(parts, 1), labels.split(parts), strict=True))
    return first, second


def perceptron(hidden: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, NUM_CLASSES))


def mixture(k: int) -> Routed:
    """Experts with a gate of 16 hidden units."""
    gate = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, NUM_EXPERTS))
    return Routed([perceptron(HIDDEN) for _ in range(NUM_EXPERTS)], gate, k=k)


def batch_of(data: Data, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Random images of a training step, each in a random version, and their labels."""
    generator = keyed_generator(seed, "batch", step)
    version, index = (torch.randint(number, (BATCH,), generator=generator) for number in data.images.shape[:2])
    return data.images[version, index], data.labels[index]


def trained_mixture(method: Method, data: Data, num_steps: int, seed: int) -> Routed:
    """Trains a mixture; it is in eval mode afterwards."""
    torch.manual_seed(derive_seed(seed, "weights"))
    layer = mixture(method.k)
    supernet = nas.Supernet(layer)

    def loss(step: int) -> Tensor:
        images, labels = batch_of(data, seed, step)
        generator = keyed_generator(seed, "noise", step)
        sample = supernet.sample(method.relaxation, TAU, generator=generator)
        with balance_losses() as terms:
            logits = supernet(images, op_weights=sample)
        return F.cross_entropy(logits, labels) + method.balance * sum(terms)

    train(supernet, loss, num_steps, seed)
    return layer


def trained_perceptron(hidden: int, data: Data, num_steps: int, seed: int) -> nn.Module:
    """Trains a network without a gate; it is in eval mode afterwards."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network = perceptron(hidden)

    def loss(step: int) -> Tensor:
        images, labels = batch_of(data, seed, step)
        return F.cross_entropy(network(images), labels)

    train(network, loss, num_steps, seed)
    return network


@torch.no_grad()
def row_of(method: str, network: nn.Module, data: Data) -> Row:
    """Judges a trained network; operations are counted by torch while it runs on all images."""
    images = data.images.flatten(0, 1)
    accuracy = (network(images).argmax(-1) == data.labels.repeat(len(VERSIONS))).float().mean()
    macs, shares = count_macs(network, (images,)), None
    if isinstance(network, Routed):
        macs -= count_macs(network.gate, (images,))
        chosen = network.gate(images).topk(network.k).indices.view(len(VERSIONS), -1)
        shares = F.one_hot(chosen, NUM_EXPERTS).double().mean(1) * network.k
    return Row(method, float(accuracy), macs / len(images), num_params(network), shares)


def compare(seed: int, num_steps: int, is_validation: bool = False) -> list[Row]:
    """All methods on one seed."""
    shown, held_out = data_of(is_validation)
    rows = [row_of(name, trained_mixture(method, shown, num_steps, seed), held_out) for name, method in METHODS.items()]
    for name, hidden in WIDTHS.items():
        rows.append(row_of(name, trained_perceptron(hidden, shown, num_steps, seed), held_out))
    return rows


def purity(shares: Tensor) -> float:
    """The share of an expert's images that are of its most frequent version: 1/4 by chance, 1 at best; mean over images."""
    return float(shares.amax(0).sum() / shares.sum())


def table(rows: Sequence[Row]) -> str:
    """Mean ± standard deviation of every method over its seeds."""
    cells = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        shares = [row.shares for row in mine if row.shares is not None]
        unused = str(sum(int((share.sum(0) == 0).sum()) for share in shares)) if shares else "-"
        pure = spread([purity(share) for share in shares], ".2f") if shares else "-"
        accuracy = spread([row.accuracy for row in mine])
        cells.append((method, accuracy, f"{mine[0].macs:,.0f}", f"{mine[0].params:,}", pure, unused))
    return markdown_table(("network", "test accuracy", "MACs of experts", "parameters", "purity", "unused"), cells)


def picture(shares: Tensor) -> Figure:
    """The four versions of a digit, and the share of each version's images that run through each expert."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    grid = figure.add_gridspec(len(VERSIONS), 2, width_ratios=[1, 8])
    data = data_of(False)[1]
    for number, image in enumerate(data.images[:, int((data.labels == 4).nonzero()[0])]):
        axes = figure.add_subplot(grid[number, 0])
        axes.imshow(image.view(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_axis_off()
    axes = figure.add_subplot(grid[:, 1])
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(VERSIONS)), VERSIONS)
    axes.set_xticks(range(NUM_EXPERTS), [f"expert {number}" for number in range(NUM_EXPERTS)])
    for version, row in enumerate(shares.tolist()):
        for expert, share in enumerate(row):
            axes.text(expert, version, f"{share:.0%}", ha="center", va="center", color="w" if share > 0.5 else "k")
    axes.set_title("share of the test images of a version that run through an expert")
    return figure


def main() -> None:
    options = options_of(__doc__, seeds="5-9", num_steps=2000)
    rows = [row for seed in options.seeds for row in compare(seed, options.num_steps)]
    print(table(rows))
    shares = rows[0].shares
    assert shares is not None
    write_atomic(PICTURE, svg_text(picture(shares)))


if __name__ == "__main__":
    main()
