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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

import nas
from nas.costs import COSTS
from nas.costs.limits import format_cost
from nas.genotype import Genotype
from nas.profile.report import profile, profile_genotype

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Row = dict[str, Any]


def limits_between(smallest: float, largest: float, num: int) -> list[float]:
    """`num` limits, evenly spaced from a step above the cheapest architecture to the most expensive."""
    return [smallest + (largest - smallest) * (i + 1) / num for i in range(num)]


def folder_name(limit: float, seed: int) -> str:
    """One for each limit, so that a command with others does not take a run for its own."""
    return f"at_most_{limit:.8g}_seed{seed}"


def retrained(source: nas.ConfigSource, genotype: Genotype, seed: int, out: Path) -> nas.Run:
    """The finished retraining at `out`; an unfinished one continues."""
    if out.exists() and nas.Run(out).finished:
        return nas.Run(out, trust_modules=source.trusted)
    return nas.retrain(genotype, source, out=out, seed_everything=seed)


def searched(source: nas.ConfigSource, cost: str, limit: float, seed: int, out: Path) -> Row:
    """One search under a limit, and its retraining."""
    if (out / "config.yaml").exists():
        run = nas.Run(out, trust_modules=source.trusted).resume()
    else:
        run = nas.search(source, out=out, model={"cost": {cost: {"max": limit}}}, seed_everything=seed)
    again = retrained(source, run.genotype, seed, out / "retrain")
    return row("search", limit, run.summary["target"][cost]["network"], seed, again.summary)


def drawn(source: nas.ConfigSource, cost: str, genotype: Genotype, seed: int, out: Path) -> Row:
    """One random architecture, trained."""
    path = out.with_suffix(".json")
    genotype.save(path)
    known = profile_genotype(path, source)["costs"][cost]
    return row("random", None, known, seed, retrained(source, genotype, seed, out).summary)


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
    source = nas.ConfigSource((options.config,), tuple(overrides), tuple(options.trust_module))
    options.out.mkdir(parents=True, exist_ok=True)
    known = profile(source)["costs"][options.cost]
    limits = limits_between(known["smallest"], known["largest"], options.num_limits)
    rows = [
        searched(source, options.cost, limit, seed, options.out / folder_name(limit, seed))
        for limit in limits
        for seed in range(options.seeds)
    ]
    pool = nas.sample_architectures(nas.experiment(source, stage="retrain"), options.num_random)
    rows += [
        drawn(source, options.cost, Genotype(choices), seed, options.out / f"random{seed}")
        for seed, choices in enumerate(pool)
    ]
    metric = nas.Run(options.out / folder_name(limits[0], 0)).summary["metric"]["name"]
    with open(options.out / "pareto.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = table(rows, options.cost, metric)
    (options.out / "pareto.md").write_text(text)
    plot(rows, options.cost, metric, options.out / "pareto.png")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
