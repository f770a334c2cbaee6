"""Learned dropout rates, compared with a grid of fixed rates.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

import nas
from nas.dropout import RELAXATION, ConcreteDropout, Per, dropout_penalty, fixed, monte_carlo, rates
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.relaxations import binary_concrete

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import digits, options_of, spread

NUM_CLASSES, NUM_TRAIN, WIDTH, NUM_STEPS = 8, 150, 256, 1500
GRID = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)
TAU, REGRESSION_TAU = 0.1, 0.02
STRENGTH = 0.3
LEARNED: dict[Per, str] = {"layer": "learned for each layer", "unit": "learned for each unit"}
NOISE = 0.3
Split = tuple[Tensor, Tensor]


def split(seed: int) -> dict[str, Split]:
    """Training, held-out training and test images of digits 0 to 7, and test images of digits 8 and 9; flattened."""
    found: dict[str, Split] = {}
    for name in ("train", "test"):
        images, labels = digits(name == "train")
        known = labels < NUM_CLASSES
        found[name] = images[known].flatten(1), labels[known]
        found[f"{name}, unknown"] = images[~known].flatten(1), labels[~known]
    x, y = found["train"]
    order = torch.randperm(len(y), generator=keyed_generator(seed, "split"))
    used, rest = order[:NUM_TRAIN], order[NUM_TRAIN:]
    return {
        "train": (x[used], y[used]),
        "validation": (x[rest], y[rest]),
        **{k: found[k] for k in found if "test" in k},
    }


def perceptron(drop: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Three linear layers; `drop` puts a dropout before each."""
    layers = [nn.Linear(64, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, NUM_CLASSES)]
    first, second, third = (drop(layer) for layer in layers)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def trained(network: nn.Module, loss: Callable[[int, Tensor, Tensor], Tensor], data: Split, seed: int) -> None:
    """Adam on random batches."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network.train()
    for step in range(NUM_STEPS):
        batch = torch.randint(len(data[1]), (64,), generator=keyed_generator(seed, "batch", step))
        torch.manual_seed(derive_seed(seed, "dropout", step))
        optimizer.zero_grad()
        loss(step, data[0][batch], data[1][batch]).backward()
        optimizer.step()
    network.eval()


def learned(data: Split, seed: int, per: Per) -> tuple[nn.Module, list[float]]:
    """A network with plain dropouts at learned rates, and the mean rate of each layer."""
    torch.manual_seed(derive_seed(seed, "weights"))
    supernet = nas.Supernet(perceptron(partial(ConcreteDropout, per=per)))

    def loss(step: int, x: Tensor, y: Tensor) -> Tensor:
        sample = supernet.sample(RELAXATION, TAU, generator=keyed_generator(seed, "noise", step))
        return F.cross_entropy(supernet(x, op_weights=sample), y) + dropout_penalty(
            supernet, len(data[1]), strength=STRENGTH
        )

    trained(supernet, loss, data, seed)
    return fixed(supernet.network), rates(supernet)


def at_rate(rate: float, data: Split, seed: int) -> nn.Module:
    """A network trained at one fixed rate, with the same penalty of the weights."""
    torch.manual_seed(derive_seed(seed, "weights"))
    network = perceptron(lambda layer: nn.Sequential(nn.Dropout(rate), layer))

    def loss(step: int, x: Tensor, y: Tensor) -> Tensor:
        squares = torch.stack([p.square().sum() for p in network.parameters() if p.dim() == 2]).sum()
        return F.cross_entropy(network(x), y) + 1e-4 * (1 - rate) * squares / 2 / len(data[1])

    trained(network, loss, data, seed)
    return network


def measured(network: nn.Module, data: dict[str, Split], seed: int) -> dict[str, float]:
    """Accuracy, likelihood and calibration on the test set, and the areas under the ROC curve for unknown digits."""
    torch.manual_seed(derive_seed(seed, "draws"))
    x, y = data["test"]
    known, unknown = monte_carlo(network, x), monte_carlo(network, data["test, unknown"][0])

    def detection(kind: str) -> float:
        doubts = [getattr(found, kind) for found in (known, unknown)]
        return float(roc_auc_score([0] * len(doubts[0]) + [1] * len(doubts[1]), torch.cat(doubts)))

    return {
        "accuracy": float((known.mean.argmax(-1) == y).float().mean()),
        "nll": likelihood(known.mean, y),
        "ece": float(multiclass_calibration_error(known.mean, y, NUM_CLASSES, n_bins=15)),
        "epistemic": detection("epistemic"),
        "total": detection("total"),
    }


def likelihood(probabilities: Tensor, y: Tensor) -> float:
    """The mean negative logarithm of the probabilities of the targets."""
    return float(-probabilities.gather(1, y[:, None]).clamp_min(1e-12).log().mean())


def recovered_rate(rate: float, seed: int, num_steps: int = 600, num_draws: int = 256) -> float:
    """The learned rate of a regression whose inputs are dropped at a known rate."""
    generator = keyed_generator(seed, "regression")
    truth = 1 + torch.rand(6, generator=generator)
    x = torch.randn(2000, 6, generator=generator)
    kept = torch.rand(x.shape, generator=generator) >= rate
    y = (x * kept / (1 - rate)) @ truth + NOISE * torch.randn(len(x), generator=generator)
    log_odds, weights = nn.Parameter(torch.tensor(math.log(0.2 / 0.8))), nn.Parameter(torch.ones(6))
    optimizer = torch.optim.Adam([log_odds, weights], lr=0.02)
    for step in range(num_steps):
        noise = keyed_generator(seed, "noise", step)
        batch = torch.randint(len(x), (100,), generator=noise)
        drop = binary_concrete(log_odds.expand(num_draws, 100, 6), REGRESSION_TAU, generator=noise)
        means = (x[batch] * (1 - drop) / (1 - torch.sigmoid(log_odds))) @ weights
        width = NOISE + 0.5 * (1 - step / num_steps)  # wide at first, because few draws are near
        terms = -((y[batch] - means) / width).square() / 2
        optimizer.zero_grad()
        (-terms.logsumexp(0).mean()).backward()
        optimizer.step()
    return float(torch.sigmoid(log_odds.detach()))


def compare(seed: int) -> list[tuple[str, dict[str, float]]]:
    """Learned rates of layers and of units, the best of the grid by validation, and every rate of the grid."""
    data, rows = split(seed), []
    for per, name in LEARNED.items():
        network, found = learned(data["train"], seed, per)
        rows.append((name, measured(network, data, seed) | {f"rate {i}": rate for i, rate in enumerate(found)}))
    scores: dict[float, float] = {}
    grid: dict[float, dict[str, float]] = {}
    for rate in GRID:
        network = at_rate(rate, data["train"], seed)
        torch.manual_seed(derive_seed(seed, "validation"))
        scores[rate] = likelihood(monte_carlo(network, data["validation"][0]).mean, data["validation"][1])
        grid[rate] = measured(network, data, seed)
    best = min(scores, key=lambda rate: scores[rate])
    rows.append(("best fixed", grid[best] | {"rate 0": best}))
    return rows + [(f"fixed at {rate:g}", grid[rate]) for rate in GRID]


def main() -> None:
    seeds = options_of(__doc__).seeds
    known = [(f"{rate:g}", spread([recovered_rate(rate, seed) for seed in seeds])) for rate in (0.1, 0.3, 0.5)]
    print(f"{markdown_table(('known rate', 'learned'), known)}\n")
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for name, row in compare(seed):
            found.setdefault(name, []).append(row)
    columns = {
        "accuracy": "accuracy",
        "nll": "negative log-likelihood",
        "ece": "calibration error",
        "epistemic": "unseen digits, epistemic",
        "total": "unseen digits, total",
    }
    cells = [(name, *(spread([row[key] for row in rows]) for key in columns)) for name, rows in found.items()]
    print(f"{markdown_table(('rates', *columns.values()), cells)}\n")
    for name in LEARNED.values():
        layers = [spread([row[f"rate {i}"] for row in found[name]]) for i in range(3)]
        print(f"mean rates, {name}, first layer to last: {', '.join(layers)}")


if __name__ == "__main__":
    main()
