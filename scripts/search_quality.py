r"""Quality of search methods at equal cost: every method by the table of a space, compared with random search.

Command: python scripts/search_quality.py --config configs/dilation_digits.yaml --seeds 0-9 \
    --table search_spaces/tables/dilation_digits.json --out runs/quality

A method is a set of changes to configs/dilation_digits.yaml (search_methods.py). Each method searches with every seed. The table gives the
score of the resulting architecture; an architecture that is not in the table (of random architectures) is trained as often as the
architectures of the table. The cost is the wall time of search and derivation in units of one stand-alone training, timed right after the
search in the same process. The random search of equal cost chooses the best of n architectures by the validation score of one training,
and is scored by the other trainings.

Methods are compared, and defaults chosen, in the validation column. `--final` reads the test column instead.

The script writes searches.csv, quality.md and quality.png into --out; finished searches are not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from scipy.stats import kendalltau
from search_methods import METHODS

import nas
from nas.benchmark import Part, Table, training_of
from nas.cli.launch_command import parse_seeds
from nas.derive import Ranked
from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.launch.comparison import best_of

matplotlib.use("Agg")
from matplotlib import pyplot as plt

NUM_TIMED = 10
Row = dict[str, Any]


def searched(source: nas.ConfigSource, seed: int, changes: dict[str, Any], out: Path) -> nas.Run:
    """One search; a finished one is read, an unfinished one resumed."""
    for key, value in {**changes, "seed_everything": seed, "trainer.num_images": 0}.items():  # pictures are no search
        source = source.overridden(key, value)
    if (out / "config.yaml").exists():
        return nas.Run(out, trust_modules=source.trusted).resume()
    return nas.search(source, out=out)


def agreement(run: nas.Run, table: Table, part: Part) -> float:
    """Kendall's tau between the table and the supernet's ranking of its architectures: recalibrated, head fitted, not smoothed."""
    score = Ranked(refit_head=True, smooth=False).scorer(run.searched())
    pool = [(json.loads(key), value) for key, value in table.column(part).items()]
    return float(kendalltau([score(choices) for choices, _ in pool], [value for _, value in pool])[0])


def worth(table: Table, experiment: Any, choices: dict[str, Any], part: Part, seeds: Sequence[int]) -> float:
    """What an architecture is worth; trained now where the table does not say."""
    if table.value(choices, part) is None:
        for seed in seeds:
            table.add(choices, part, seed, nas.standalone_score(experiment, Genotype(choices), part, seed).value)
    value = table.value(choices, part)
    assert value is not None
    return value


def random_search(table: Table, part: Part, num: float, drawn: Sequence[str]) -> float:
    """The expected worth of what random search finds with `num` trainings; between whole numbers, in proportion.

    Args:
        table: Has validation scores of `drawn`, and scores of `part`.
        part: Where its find is judged: by other seeds than the one that chose.
        num: Number of trainings.
        drawn: The architectures to draw from.
    """
    seeds = list(table.rows[drawn[0]]["validation"])

    def worth_of(key: str, chosen_by: int) -> float:
        scores = table.rows[key][part]
        return statistics.fmean(value for seed, value in scores.items() if part == "test" or seed != chosen_by)

    return statistics.fmean(
        best_of([table.rows[key]["validation"][seed] for key in drawn], [worth_of(key, seed) for key in drawn], num)
        for seed in seeds
    )


def training_seconds(experiment: Any, seed: int) -> float:
    """The time of a stand-alone training on the whole training set, of a random architecture, now."""
    drawn = nas.sample_architectures(experiment, NUM_TIMED)
    return nas.standalone_score(experiment, Genotype(drawn[seed % len(drawn)]), "test", seed).seconds


def summarised(name: str, rows: Sequence[Row], table: Table, part: Part, drawn: Sequence[str]) -> Row:
    """One line of the table."""
    values, costs = [row["worth"] for row in rows], [row["cost"] for row in rows]
    cost = statistics.fmean(costs)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    chance = random_search(table, part, min(max(cost, 1.0), len(drawn)), drawn)
    taus = [row["tau"] for row in rows if row["tau"] is not None]
    return {
        "method": name,
        "n": len(rows),
        "mean": statistics.fmean(values),
        "std": error * math.sqrt(len(values)),
        "worst": min(values),
        "rank": statistics.fmean(row["rank"] for row in rows),
        "regret": statistics.fmean(row["regret"] for row in rows),
        "cost": cost,
        "random": chance,
        "gain": (statistics.fmean(values) - chance) / error if error > 0 else math.nan,
        "tau": statistics.fmean(taus) if taus else math.nan,
        "probability": mean_of(row["probability"] for row in rows),
        "expected": mean_of(row["expected"] for row in rows),
    }


def mean_of(values: Iterable[float | None]) -> float:
    """The mean of the numbers that are known; NaN without any."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else math.nan


def learned(run: nas.Run, table: Table, part: Part) -> dict[str, float | None]:
    """The probability of the derived architecture, and the expected worth under the distribution; None if no distribution decided."""
    supernet = run.searched().supernet
    paths, probabilities = supernet.joint.most_probable(len(table.rows))
    values = [table.value(dict(supernet.genotype_of(path).choices), part) for path in paths.tolist()]
    known = run.summary["distribution"]
    if known is None or known["says_nothing"] or any(value is None for value in values):
        return {"probability": None, "expected": None}
    total = sum(p * value for p, value in zip(probabilities.tolist(), values, strict=True) if value is not None)
    return {"probability": known["probability"], "expected": total}


def table_text(lines: Sequence[Row], part: Part, metric: str) -> str:
    """The lines as a table."""
    heads = (
        f"{part} {metric}",
        "worst",
        "rank",
        "regret",
        "cost",
        "random search",
        "gain (s.e.)",
        "Kendall's tau",
        "p(derived)",
        "E[worth]",
        "n",
    )
    text = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in lines:
        cells = (
            f"{row['mean']:.4f} ± {row['std']:.4f}",
            f"{row['worst']:.4f}",
            f"{row['rank']:.1f}",
            f"{row['regret']:.4f}",
            f"{row['cost']:.1f}",
            f"{row['random']:.4f}",
            f"{row['gain']:+.1f}",
            f"{row['tau']:.2f}",
            f"{row['probability']:.2f}",
            f"{row['expected']:.4f}",
            str(row["n"]),
        )
        text.append(f"| {row['method']} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def plot(lines: Sequence[Row], curve: Sequence[tuple[float, float]], part: Part, metric: str, path: Path) -> None:
    """Accuracy against cost; random search as a curve."""
    figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    axes.plot(*zip(*curve, strict=True), color="grey", label="random search")
    for row in lines:
        axes.errorbar(
            row["cost"], row["mean"], row["std"] / math.sqrt(row["n"]), marker="o", capsize=2, label=row["method"]
        )
    axes.set(xlabel="cost (stand-alone trainings)", ylabel=f"{part} {metric}", xscale="log")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True, help="from scripts/enumerate_space.py")
    parser.add_argument("--seeds", default="0-9")
    parser.add_argument("--methods", default=",".join(METHODS), help="of " + ", ".join(METHODS))
    parser.add_argument("--final", action="store_true", help="judge by the test column")
    parser.add_argument("--without-tau", action="store_true", help="save the time of Kendall's tau")
    parser.add_argument("--trust-module", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    options, overrides = parser.parse_known_args(argv)
    source = nas.ConfigSource((options.config,), tuple(overrides), tuple(options.trust_module))
    part: Part = "test" if options.final else "validation"
    names = options.methods.split(",")
    if unknown := [name for name in names if name not in METHODS]:
        parser.error(f"--methods: no method is called {unknown[0]!r}; there are {', '.join(METHODS)}")
    retraining = nas.experiment(source, stage="retrain")
    table = Table.load(options.table)
    if table.training != training_of(retraining.applied):
        raise UsageError(f"{options.table}: of another space, data or training than {options.config}")
    drawn = list(table.rows)
    seeds = sorted(next(iter(table.rows.values()))[part])
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    lines: list[Row] = []
    for name in names:
        for seed in parse_seeds(options.seeds):
            start = time.perf_counter()
            run = searched(source, seed, METHODS[name], options.out / f"{name}_{seed}")
            summary = run.summary
            unit = training_seconds(retraining, seed)
            found = summary["genotype"]
            row = {
                "method": name,
                "seed": seed,
                "seconds": summary["search_seconds"],
                "training_seconds": unit,
                "cost": summary["search_seconds"] / unit,
                "worth": worth(table, retraining, found, part, seeds),
                "tau": None if options.without_tau else agreement(run, table, part),
                "genotype": json.dumps(found),
            }
            row |= learned(run, table, part)
            row |= {key: (table.standing(found, part) or {})[key] for key in ("rank", "regret")}
            rows.append(row)
            print(
                {key: row[key] for key in ("method", "seed", "cost", "worth", "tau")},
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
        lines.append(summarised(name, [row for row in rows if row["method"] == name], table, part, drawn))
    with open(options.out / "searches.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = table_text(lines, part, table.metric)
    (options.out / "quality.md").write_text(text)
    curve = [(n, random_search(table, part, n, drawn)) for n in (1, 2, 3, 4, 5, 7, 10, 15, 20, 30) if n <= len(drawn)]
    plot(lines, curve, part, table.metric, options.out / "quality.png")
    print(text)
    for n, value in curve:
        print(f"random search, {n} trainings: {value:.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
