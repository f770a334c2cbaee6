"""Accuracy against cost: searches under a range of limits, and random architectures of the same space for comparison.

Command: python scripts/pareto.py --config configs/macro_digits.yaml --cost macs --out runs/pareto

Limits are evenly spaced between the cheapest and the most expensive architecture. The architecture of each search and all random
architectures are retrained by the retrain section of the configuration; the accuracy is that of the test set. The script writes pareto.csv
(every network), pareto.png, and the printed table as pareto.md; the run folders stay beside them. After a stop, the same command continues:
it reads finished runs instead of running them again.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from nas.costs import COSTS
from nas.costs.limits import format_cost, passes
from nas.genotype import Genotype
from nas.profile.report import profile
from nas.runs.build import build_search
from nas.runs.config import load_experiment, load_retraining
from nas.runs.folder import RunFolder
from nas.runs.options import ConfigSource
from nas.runs.stages.retrain import retrain_genotype, retrain_run
from nas.runs.stages.search import resume, search
from nas.runs.targets import cost_tables
from nas.runs.trainer import prepare_machine
from nas.supernet.structure import random_choices

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]


def limits_between(smallest: float, largest: float, num: int) -> list[float]:
    """`num` limits, evenly spaced from a step above the cheapest architecture to the most_expensive."""
    return [smallest + (largest - smallest) * (i + 1) / num for i in range(num)]


def folder_name(limit: float, seed: int) -> str:
    """One for each limit, so that a command with others does not take a run for its own."""
    return f"at_most_{limit:.8g}_seed{seed}"


def once(out: Path, run: Callable[[], RunFolder]) -> RunFolder:
    """The finished run at `out`, or what `run` makes of it; a retraining goes on where it stopped."""
    folder = RunFolder(out)
    return folder if folder.finished else run()


def searched(source: ConfigSource, cost: str, limit: float, seed: int, out: Path) -> Row:
    """One search under a limit, and its retraining."""
    source = source.overridden("model.cost", {cost: {"max": limit}}).overridden("seed_everything", seed)
    if (out / "config.yaml").exists():
        resume(out, source.trusted)
    else:
        search(source, out)
    retrained = once(
        out / "retrain", lambda: retrain_run(out, seed=seed, inherit=False, out=None, trusted=source.trusted)
    )
    summary = RunFolder(out).read_summary()
    return row("search", limit, summary["target"][cost]["table"], seed, retrained.read_summary())


def drawn(source: ConfigSource, cost_of: Callable[[Any], float], seed: int, out: Path) -> Row:
    """One random architecture, trained."""
    module = build_search(load_experiment(source))
    tries = (random_choices(module.supernet.network, seed + 1_000_000 * i) for i in range(1000))
    genotype = Genotype(next(choices for choices in tries if passes(module.space.check_genotype, choices)))
    path = out.with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    genotype.save(path)
    folder = once(out, lambda: retrain_genotype(path, source, seed=seed, out=out))
    return row("random", None, cost_of(genotype.choices), seed, folder.read_summary())


def row(kind: str, limit: float | None, cost: float, seed: int, summary: dict[str, Any]) -> Row:
    """One line of pareto.csv."""
    return {"kind": kind, "limit": limit, "cost": cost, "seed": seed, "metric": summary["metric"]["value"]}


def table(rows: Sequence[Row], cost: str, metric: str) -> str:
    """Mean and standard deviation for each limit, and of the random architectures."""
    lines = [f"| architectures | {cost} | test {metric} | n |", "|---|---|---|---|"]
    for limit in [*sorted({r["limit"] for r in rows if r["limit"] is not None}), None]:
        group = [r for r in rows if r["limit"] == limit]
        name = "random" if limit is None else f"searched, at most {format_cost(round(limit))}"
        costs, values = [r["cost"] for r in group], [r["metric"] for r in group]
        lines.append(f"| {name} | {spread(costs, 0)} | {spread(values, 4)} | {len(group)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):,.{digits}f} ± {deviation:,.{digits}f}"


def plot(rows: Sequence[Row], cost: str, metric: str, path: Path) -> None:
    """Points of both kinds, limits as vertical lines."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind, marker in (("random", "x"), ("search", "o")):
        points = [(r["cost"], r["metric"]) for r in rows if r["kind"] == kind]
        axes.scatter(*zip(*points, strict=True), marker=marker, label=kind)
    for limit in {r["limit"] for r in rows if r["limit"] is not None}:
        axes.axvline(limit, color="grey", linewidth=0.5, linestyle=":")
    axes.set(xlabel=cost, ylabel=f"test {metric}")
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--cost", default="macs", choices=list(COSTS))
    parser.add_argument("--num-limits", type=int, default=4)
    parser.add_argument("--num-random", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3, help="searches for each limit")
    parser.add_argument("--trust-module", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    options, overrides = parser.parse_known_args(argv)
    if min(options.num_limits, options.num_random, options.seeds) < 1:
        parser.error("--num-limits, --num-random and --seeds must be at least 1")
    source = ConfigSource((options.config,), tuple(overrides), tuple(options.trust_module))
    options.out.mkdir(parents=True, exist_ok=True)
    known = profile(source)["costs"][options.cost]
    limits = limits_between(known["smallest"], known["largest"], options.num_limits)
    rows = [
        searched(source, options.cost, limit, seed, options.out / folder_name(limit, seed))
        for limit in limits
        for seed in range(options.seeds)
    ]
    cost_of = random_cost(source, options.cost)
    rows += [drawn(source, cost_of, seed, options.out / f"random{seed}") for seed in range(options.num_random)]
    metric = RunFolder(options.out / folder_name(limits[0], 0)).read_summary()["metric"]["name"]
    with open(options.out / "pareto.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = table(rows, options.cost, metric)
    (options.out / "pareto.md").write_text(text)
    plot(rows, options.cost, metric, options.out / "pareto.png")
    print(text)
    return 0


def random_cost(source: ConfigSource, cost: str) -> Callable[[Any], float]:
    """The table's cost of a genotype's choices."""
    retraining = load_retraining(source)
    return cost_tables(retraining, prepare_machine(retraining.trainer), {cost: COSTS[cost]}, measure=True)[cost].of


if __name__ == "__main__":
    raise SystemExit(main())
