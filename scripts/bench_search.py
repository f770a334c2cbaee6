"""The cost of everything around a search step: a whole search, compared with a plain loop that computes the same.

Command: python scripts/bench_search.py --config configs/dilation_gumbel_digits.yaml

The plain loop has the same network, draws, batches, optimizers and annealed tau; it has no Lightning, logging, metrics and checkpoints.
It calls the network of the space and ``supernet.sample``, and no other code of this project. Searches and loops alternate in one process.
"ratio" is the median over rounds of the time of a search, without derivation, over the time of the next loop. "difference" is the largest
difference between the mean losses of an epoch, over all epochs and both splits: both compute the same. The configuration must use
nas.bilevel.FirstOrder without regularizers, paths and schedules.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import nas
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.relaxations import Relaxation

Batches = list[tuple[Tensor, Tensor, Tensor, Tensor]]
Losses = list[tuple[float, float]]


def plain_loop(
    supernet: nas.Supernet,
    relaxation: Relaxation,
    epochs: list[Batches],
    optimizers: Sequence[torch.optim.Optimizer],
    tau: tuple[float, float],
    warmup_epochs: int,
    seed: int,
) -> Losses:
    """Searches; returns the mean losses of each epoch on the train split and on the arch split."""
    weights, alpha = list(supernet.weight_parameters()), supernet.alpha
    weight_optimizer, arch_optimizer = optimizers
    total, step, result = sum(len(batches) for batches in epochs), 0, []
    for epoch, batches in enumerate(epochs):
        sums = torch.zeros(2)
        for inputs, target, arch_inputs, arch_target in batches:
            now = torch.tensor(tau[0] * (tau[1] / tau[0]) ** (step / total))
            if epoch >= warmup_epochs:
                sample = supernet.sample(relaxation, now, generator=keyed_generator(seed, "noise/arch", step))
                loss = cross_entropy(supernet(arch_inputs, op_weights=sample), arch_target)
                arch_optimizer.zero_grad()
                loss.backward(inputs=[alpha])
                arch_optimizer.step()
                sums[1] += loss.detach()
            sample = supernet.sample(relaxation, now, generator=keyed_generator(seed, "noise/weight", step))
            loss = cross_entropy(supernet(inputs, op_weights=sample), target)
            weight_optimizer.zero_grad()
            loss.backward(inputs=weights)
            weight_optimizer.step()
            sums[0] += loss.detach()
            step += 1
        mean = (sums / len(batches)).tolist()
        result.append((mean[0], mean[1]))
    return result


def run_plain_loop(source: nas.ConfigSource) -> tuple[float, Losses]:
    """Seconds and losses of the plain loop, from its first step to its last; batches are there before."""
    experiment = nas.experiment(source)
    seed, model, values = experiment.seed, experiment.model, experiment.values["model"]
    torch.manual_seed(derive_seed(seed, "init"))
    supernet = nas.Supernet(model["space"].network("search"))
    loader = experiment.data.search_loader(seed)
    epochs = [[(x, y, u, v) for (x, y), (u, v) in loader] for _ in range(experiment.trainer.max_epochs)]
    tau = values["tau"]["init_args"]
    optimizers = [
        model["weight_optimizer"](supernet.weight_parameters()),
        model["arch_optimizer"](supernet.arch_parameters()),
    ]
    torch.set_num_threads(experiment.trainer.num_threads or torch.get_num_threads())
    supernet.train()
    start = time.perf_counter()
    losses = plain_loop(
        supernet, model["relaxation"], epochs, optimizers, (tau["start"], tau["end"]), model["warmup_epochs"], seed
    )
    return time.perf_counter() - start, losses


def run_search(source: nas.ConfigSource) -> tuple[float, Losses]:
    """Seconds and losses of a search, from its first step to its last, with everything that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        run = nas.search(source, out=Path(folder) / "run")
        summary = run.summary
        with open(run.path / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    losses = [(float(row["weight/loss"]), float(row["arch/loss"] or 0)) for row in rows]
    return summary["search_seconds"] - summary["derive_seconds"], losses


def compare(source: nas.ConfigSource, num_rounds: int) -> dict[str, float]:
    """The figures of the table."""
    rounds = [(run_search(source), run_plain_loop(source)) for _ in range(num_rounds)]
    ours, plain = rounds[0][0][1], rounds[0][1][1]
    return {
        "search_seconds": statistics.median(search[0] for search, _ in rounds),
        "loop_seconds": statistics.median(loop[0] for _, loop in rounds),
        "ratio": statistics.median(search[0] / loop[0] for search, loop in rounds),
        "difference": max(
            abs(a - b) for first, second in zip(ours, plain, strict=True) for a, b in zip(first, second, strict=True)
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options, overrides = parser.parse_known_args(argv)
    result = compare(nas.ConfigSource((options.config,), tuple(overrides)), options.rounds)
    if options.json:
        print(json.dumps(result))
    else:
        cells = [(name.replace("_", " "), f"{value:.3g}") for name, value in result.items()]
        print(markdown_table(("figure", "value"), cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
