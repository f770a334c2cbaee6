"""A regression whose data have a gap: learned dropout rates for each unit show where the network does not know.

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

import nas
from nas.dropout import RELAXATION, ConcreteDropout, Per, Uncertainty, dropout_penalty, fixed, monte_carlo
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import options_of, spread

GAP, END = 0.7, 2.0
"""The data have an absolute value of x between these two."""
NUM_TRAIN, NUM_BUMPS, WIDTH, NUM_STEPS, TAU = 200, 64, 64, 500, 0.1
GRID = (0.01, 0.05, 0.1, 0.2, 0.35, 0.5)
LENGTH = 0.3
"""Length scale of the prior on weights, for learned and fixed rates."""
RATIO = "epistemic inside / outside"
Split = tuple[Tensor, Tensor]


def truth(x: Tensor) -> Tensor:
    return torch.sin(3 * x)


def noise(x: Tensor) -> Tensor:
    """The standard deviation of the noise: smaller on the left."""
    return 0.05 + 0.1 * (x > 0)


def data(seed: int, name: str, num: int = NUM_TRAIN) -> Split:
    """Inputs (N, 1) on both sides of the gap, and noisy values (N, 1)."""
    generator = keyed_generator(seed, name)
    x = torch.rand(num, 1, generator=generator) * (END - GAP) + GAP
    x = x * torch.where(torch.rand(num, 1, generator=generator) < 0.5, -1.0, 1.0)
    return x, truth(x) + noise(x) * torch.randn(num, 1, generator=generator)


class Bumps(nn.Module):
    """Gaussian bumps of x (N, 1) at equal distances: (N, NUM_BUMPS)."""

    def forward(self, x: Tensor) -> Tensor:
        centers = torch.linspace(-1.25 * END, 1.25 * END, NUM_BUMPS)
        width = 2 * (centers[1] - centers[0])
        return torch.exp(-(((x - centers) / width) ** 2) / 2)


class Halves(nn.Module):
    """Mean and logarithm of the variance, (N, 1) each."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = x.chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 4)


def network(drop: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Bumps, a hidden layer, and mean and log variance; `drop` puts a dropout before each linear layer."""
    first, second = drop(nn.Linear(NUM_BUMPS, WIDTH)), drop(nn.Linear(WIDTH, 2))
    return nn.Sequential(Bumps(), first, nn.ReLU(), second, Halves())


def likelihood(mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    """The mean negative logarithm of a Gaussian's density, nats."""
    return nn.functional.gaussian_nll_loss(mean, y, variance, full=True)


def trained(
    module: nn.Module, call: Callable[[int], tuple[Tensor, Tensor]], y: Tensor, penalty: Callable[[], Tensor]
) -> None:
    """Adam on the negative log-likelihood of all data, and a penalty."""
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    module.train()
    for step in range(NUM_STEPS):
        mean, log_variance = call(step)
        optimizer.zero_grad()
        (likelihood(mean, log_variance.exp(), y) + penalty()).backward()
        optimizer.step()


def learned(per: Per, seed: int) -> nn.Module:
    """A network with dropouts at learned rates."""
    torch.manual_seed(derive_seed(seed, "weights"))
    x, y = data(seed, "train")
    supernet = nas.Supernet(network(partial(ConcreteDropout, per=per)))

    def call(step: int) -> tuple[Tensor, Tensor]:
        sample = supernet.sample(RELAXATION, TAU, generator=keyed_generator(seed, "noise", step))
        result: tuple[Tensor, Tensor] = supernet(x, op_weights=sample)
        return result

    trained(supernet, call, y, lambda: dropout_penalty(supernet, len(y), length=LENGTH))
    return fixed(supernet.network)


def at_rate(rate: float, seed: int) -> nn.Module:
    """A network trained at one fixed rate."""
    torch.manual_seed(derive_seed(seed, "weights"))
    x, y = data(seed, "train")
    module = network(lambda layer: nn.Sequential(nn.Dropout(rate), layer))

    def penalty() -> Tensor:
        squares = torch.stack([weight.square().sum() for weight in module.parameters() if weight.dim() == 2]).sum()
        return LENGTH**2 * (1 - rate) * squares / 2 / len(y)

    trained(module, lambda step: module(x), y, penalty)
    return module


def predicted(module: nn.Module, x: Tensor, seed: int) -> Uncertainty:
    torch.manual_seed(derive_seed(seed, "draws"))
    return monte_carlo(module, x, 100, "regression")


def measured(module: nn.Module, seed: int) -> dict[str, float]:
    """Epistemic variance inside the gap relative to that outside, and likelihoods of new data."""
    gap = torch.linspace(-GAP, GAP, 101)[10:-10, None]  # 0.14 away from the data on each side
    x, y = data(seed, "test", 1000)
    inside, outside = predicted(module, gap, seed), predicted(module, x, seed)
    values = truth(gap) + noise(gap) * torch.randn(gap.shape, generator=keyed_generator(seed, "gap"))
    return {
        RATIO: float(inside.epistemic.mean() / outside.epistemic.mean()),
        "nll outside": float(likelihood(outside.mean, outside.total, y)),
        "nll inside": float(likelihood(inside.mean, inside.total, values)),
        "aleatoric error": float((outside.aleatoric.sqrt() - noise(x)).abs().mean()),
    }


def best_fixed(seed: int) -> nn.Module:
    """The network of the grid of rates with the highest validation likelihood."""
    x, y = data(seed, "validation")

    def score(module: nn.Module) -> float:
        found = predicted(module, x, seed)
        return float(likelihood(found.mean, found.total, y))

    return min((at_rate(rate, seed) for rate in GRID), key=score)


METHODS: dict[str, Callable[[int], nn.Module]] = {
    "a rate for each unit": partial(learned, "unit"),
    "a rate for each layer": partial(learned, "layer"),
    "best of six fixed rates": best_fixed,
}


def draw(seed: int, path: str) -> None:
    """Mean, and two standard deviations of epistemic and of total uncertainty, for each method."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    points, values = data(seed, "train")
    x = torch.linspace(-END, END, 201)[:, None]
    for axes, (name, method) in zip(figure.subplots(1, len(METHODS), sharey=True), METHODS.items(), strict=True):
        found = predicted(method(seed), x, seed)
        for variance, shade, label in ((found.total, 0.2, "total"), (found.epistemic, 0.4, "epistemic")):
            band = [(found.mean + sign * 2 * variance.sqrt()).squeeze(1) for sign in (-1, 1)]
            axes.fill_between(x.squeeze(1), *band, color="tab:blue", alpha=shade, lw=0, label=label)
        axes.plot(x, truth(x), "k--", lw=1, label="truth")
        axes.plot(x, found.mean, "tab:blue", lw=1.5, label="mean")
        axes.plot(points, values, "k.", ms=2)
        axes.set(title=name, xlabel="x", ylim=(-3, 3))
    axes.legend(loc="lower left", fontsize="small", ncols=2)
    figure.savefig(path, dpi=80)


def main() -> None:
    options = options_of(__doc__, seeds="5-9", has_picture=True)
    if options.picture:
        draw(options.seeds[0], options.picture)
        return
    rows = []
    for name, method in METHODS.items():
        found = [measured(method(seed), seed) for seed in options.seeds]
        smallest = min(row[RATIO] for row in found)
        rows.append((name, *(spread([row[key] for row in found]) for key in found[0]), f"{smallest:.3f}"))
    print(markdown_table(("dropout", *found[0], "smallest ratio"), rows))


if __name__ == "__main__":
    main()
