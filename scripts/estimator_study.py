"""Bias and variance of the alpha gradient of every estimator over a grid of tau, with the exact gradient from enumeration.

Command: python scripts/estimator_study.py --out runs/estimator_study

The script writes table.md (the tables that README quotes), estimators.csv (every figure), estimators.png (bias and spread against
tau) and surface.png (the loss surface at several tau) into the folder.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from nas.regularizers import entropy
from nas.relaxations import (
    Dirichlet,
    GumbelRao,
    GumbelSoftmax,
    ReinMax,
    Relaxation,
    SampledPath,
    Softmax,
    TwoPath,
    gumbel_noise,
)
from nas.relaxations.estimators import exact_gradient, gradient_draws, leave_one_out_draws, mixture

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TAUS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NUM_CHOICES, NUM_CANDIDATES = 2, 3
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "quadratic": lambda y: y.square().sum(-1),
    "sine": lambda y: torch.sin(2 * y).sum(-1),
    "log-cosh": lambda y: torch.log(torch.cosh(y)).sum(-1),
}
ESTIMATORS: dict[str, Relaxation | None] = {
    "Softmax": Softmax(),
    "GumbelSoftmax": GumbelSoftmax(),
    "GumbelSoftmax(hard)": GumbelSoftmax(hard=True),
    "GumbelRao(10)": GumbelRao(10),
    "ReinMax": ReinMax(),
    "SampledPath": SampledPath(),
    "TwoPath": TwoPath(),
    "Dirichlet": Dirichlet(),
    "leave-one-out(5)": None,  # the score function of 5 one-hot samples, which has no tau
}
NUM_PATHS = 5

Row = dict[str, Any]


def measure(loss: str, estimator: str, tau: float, seed: int, num_draws: int) -> Row:
    """Bias and spread of one estimator on one problem, in units of the exact gradient's norm."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(NUM_CHOICES, NUM_CANDIDATES, dtype=torch.float64, generator=generator)
    objective = mixture(LOSSES[loss], NUM_CHOICES, NUM_CANDIDATES, seed)
    relaxation = ESTIMATORS[estimator]
    exact = exact_gradient(objective, logits, relaxation)
    if relaxation is None:
        draws = leave_one_out_draws(objective, logits, NUM_PATHS, num_draws, generator)
    else:
        draws = gradient_draws(relaxation, objective, logits, tau, num_draws, generator)
    mean, scale = draws.mean(0), float(exact.norm())
    total_variance = float(draws.var(0).sum())
    return {
        "loss": loss,
        "estimator": estimator,
        "tau": tau,
        "seed": seed,
        "bias": float((mean - exact).norm()) / scale,
        "bias_error": (total_variance / num_draws) ** 0.5 / scale,
        "spread": total_variance**0.5 / scale,
        "cosine": float((mean * exact).sum() / (mean.norm() * scale).clamp_min(1e-300)),
    }


def averaged(rows: list[Row], loss: str, estimator: str, tau: float, key: str) -> list[float]:
    """The figure over all seeds."""
    return [row[key] for row in rows if (row["loss"], row["estimator"], row["tau"]) == (loss, estimator, tau)]


def table(rows: list[Row], taus: tuple[float, ...] = (0.2, 1.0, 5.0)) -> str:
    """A Markdown table: bias ± standard deviation over seeds, and spread."""
    lines = ["| loss | estimator | " + " | ".join(f"bias, tau {tau}" for tau in taus)]
    lines[0] += " | " + " | ".join(f"spread, tau {tau}" for tau in taus) + " |"
    lines.append("|---" * (2 + 2 * len(taus)) + "|")
    for loss in LOSSES:
        for estimator in ESTIMATORS:
            cells = []
            for tau in taus:
                values = averaged(rows, loss, estimator, tau, "bias")
                cells.append(f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}")
            cells += [f"{statistics.mean(averaged(rows, loss, estimator, tau, 'spread')):.1f}" for tau in taus]
            lines.append(f"| {loss} | {estimator} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tau_slopes(seeds: int, num_draws: int, weight: float = -0.1) -> str:
    """In how many problems descent on tau raises it: under the soft loss alone, the entropy bonus alone, and both."""
    lines = [f"| loss | tau | soft loss alone | entropy bonus of weight {weight} alone | both |", "|---" * 5 + "|"]
    for name, loss in LOSSES.items():
        for tau_value in TAUS:
            rises = [0, 0, 0]
            for seed in range(seeds):
                generator = torch.Generator().manual_seed(seed)
                logits = torch.randn(NUM_CHOICES, NUM_CANDIDATES, dtype=torch.float64, generator=generator)
                objective = mixture(loss, NUM_CHOICES, NUM_CANDIDATES, seed)
                tau = torch.tensor(tau_value, dtype=torch.float64, requires_grad=True)
                weights = GumbelSoftmax()(logits.expand(num_draws, -1, -1), tau, generator=generator)
                bonus = weight * entropy(torch.softmax(logits / tau, -1)).mean()
                slopes = [torch.autograd.grad(part, tau)[0] for part in (objective(weights).mean(), bonus)]
                for i, slope in enumerate((*slopes, sum(slopes))):
                    rises[i] += int(slope < 0)
            lines.append(f"| {name} | {tau_value} | " + " | ".join(f"{count} of {seeds}" for count in rises) + " |")
    return "\n".join(lines) + "\n"


def draw_estimators(rows: list[Row], path: Path) -> None:
    """Bias and spread against tau, one column a loss."""
    figure, axes = plt.subplots(2, len(LOSSES), figsize=(12, 7), sharex=True, sharey="row", layout="constrained")
    markers = "osD^vPX*h"
    for column, loss in enumerate(LOSSES):
        for (name, _), marker in zip(ESTIMATORS.items(), markers, strict=True):
            for row, key in enumerate(("bias", "spread")):
                means = [statistics.mean(averaged(rows, loss, name, tau, key)) for tau in TAUS]
                shown = [value if value > 1e-9 else float("nan") for value in means]  # Softmax has no spread
                axes[row, column].loglog(TAUS, shown, marker=marker, label=name)
        axes[0, column].set_title(loss)
        axes[1, column].set_xlabel("tau")
    axes[0, 0].set_ylabel("bias / norm of the exact gradient")
    axes[1, 0].set_ylabel("standard deviation / norm")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_surface(path: Path) -> None:
    """The loss of two mixed candidates against their logit difference: one noise draw, and the mean over noise."""
    span = torch.linspace(-6, 6, 241, dtype=torch.float64)
    values = torch.tensor([1.0, -0.6], dtype=torch.float64)  # outputs; the loss is the square of their mixture

    def loss(second: Tensor) -> Tensor:
        return ((1 - second) * values[0] + second * values[1]).square()

    generator = torch.Generator().manual_seed(0)
    noise = gumbel_noise(torch.empty(2, 20_000, dtype=torch.float64), generator)
    logistic = noise[1] - noise[0]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    colours = plt.get_cmap("viridis")
    taus = (0.05, 0.3, 1.0, 3.0, 10.0)
    for i, tau in enumerate(taus):
        colour = colours(i / len(taus))
        axes[0].plot(span, loss(torch.sigmoid((span + logistic[0]) / tau)), color=colour, label=f"tau {tau}")
        mean = torch.stack([loss(torch.sigmoid((a + logistic) / tau)).mean() for a in span])
        axes[1].plot(span, mean, color=colour, label=f"tau {tau}")
    p = torch.sigmoid(span)
    exact = (1 - p) * values[0] ** 2 + p * values[1] ** 2
    axes[1].plot(span, exact, "k--", label="expected loss of one-hot samples")
    axes[0].set_title("one draw of the noise")
    axes[1].set_title("mean over the noise")
    for axis in axes:
        axis.set_xlabel("logit difference")
    axes[0].set_ylabel("loss of the mixture")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Measures, and writes tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into; made where it is missing")
    parser.add_argument("--seeds", type=int, default=10, help="problems of each loss (default 10)")
    parser.add_argument("--draws", type=int, default=40_000, help="gradient draws a measurement (default 40000)")
    options = parser.parse_args(argv)
    if options.seeds < 2 or options.draws < 2:
        parser.error("--seeds and --draws must be at least 2")
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [
        measure(loss, estimator, tau, seed, options.draws)
        for loss in LOSSES
        for estimator in ESTIMATORS
        for tau in TAUS
        for seed in range(options.seeds)
    ]
    with open(options.out / "estimators.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = table(rows) + "\nProblems in which descent raises tau:\n\n" + tau_slopes(options.seeds, options.draws)
    (options.out / "table.md").write_text(text)
    draw_estimators(rows, options.out / "estimators.png")
    draw_surface(options.out / "surface.png")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
