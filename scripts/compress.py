r"""Networks made smaller by gumbel-nas and by others, at equal limits and with equal fine-tuning, on Fashion-MNIST.

Command: python scripts/compress.py --root DATA --parent runs/parent.pt --out runs/compress.jsonl --seeds 0-4 --threads 1

The parent, a ResNet-18 of timm, is trained once; `--model compress_training:small` is one for 14 x 14 pixels. Each method
(compress_methods.py) makes the parent smaller, to at most a share of its MACs. Then the small networks are trained for the same
epochs, with the same optimizer and the same order of samples. The name of a method may end in

    +teacher  the parent teaches in the fine-tuning
    +longer   the fine-tuning has the epochs of a search in addition, because a search trains weights too
    +scratch  the architecture alone, trained from random weights for the epochs of the parent and of the fine-tuning together

A row is appended to --out as soon as it is finished; rows in the file are not done again. `--validate` holds out 5,000 training images
instead of the test images, to choose settings. FastNAS needs nvidia-modelopt (0.47) and torchprofile 0.0.4, Torch-Pruning torch-pruning
(1.6): without them the row names what is missing.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compress_methods import METHODS, PACKAGES, Job, lines_of
from compress_own import rank_correlations
from compress_training import Samples, accuracy, fit, fresh, load
from torch import nn

import nas
from nas.cli.launch_command import parse_seeds
from nas.costs import count_macs, num_params
from nas.io.files import write_atomic
from nas.io.markdown import markdown_table

NUM_HELD_OUT = 5_000
DEFAULT = "ours,ours+teacher,fastnas,fastnas+longer,magnitude,taylor,taylor+longer,uniform,parent,ours+scratch,uniform+scratch"
MEANS = ("before", "macs", "params", "seconds")
Row = dict[str, Any]
Key = tuple[str, float, int]


def read_rows(path: Path) -> dict[Key, Row]:
    """Finished rows by method, limit and seed; a last line that was cut off is left out."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["method"], row["limit"], row["seed"]] = row
    return rows


def wanted(methods: Sequence[str], limits: Sequence[float], seeds: Sequence[int]) -> Iterator[Key]:
    """The rows to make, seed by seed, those that train from scratch last; the parent has no limit."""
    for scratch in (False, True):
        chosen = [method for method in methods if method.endswith("+scratch") == scratch]
        for seed in seeds:
            yield from ((method, 1.0, seed) for method in chosen if method == "parent")
            yield from ((method, limit, seed) for limit in limits for method in chosen if method != "parent")


class Study:
    """The data, the parent and the settings that all rows share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        train, test = load(options.root, True), load(options.root, False)
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(5))
        held_out = min(NUM_HELD_OUT, len(order) // 4) if options.validate else 0
        kept = order[held_out : held_out + options.images] if options.images else order[held_out:]
        self.train = Samples(train.images[kept], train.labels[kept])
        self.test = Samples(*(tensor[order[:held_out]] for tensor in train)) if options.validate else test
        module, _, name = options.model.partition(":")
        self.parent: nn.Module = fresh(getattr(importlib.import_module(module), name)(), 0)
        if options.parent.exists():
            self.parent.load_state_dict(torch.load(options.parent, weights_only=True))
        else:
            fit(self.parent, self.train, epochs=options.parent_epochs, lr=options.parent_lr, seed=0)
            options.parent.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self.parent.state_dict(), options.parent)
        self.parent.eval()
        self.macs = count_macs(self.parent, (self.train.images[:1],))
        self.folder = options.out.with_suffix("")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.npz = self.folder / "data.npz"
        x, y = (tensor.numpy() for tensor in self.train)
        np.savez(self.npz, x_train=x, y_train=y, x_test=x[:100], y_test=y[:100])  # a search reads no test images
        self.cut = lru_cache(maxsize=1)(self._cut)

    def _job(self, limit: float, seed: int, folder: Path) -> Job:
        return Job(
            parent=copy.deepcopy(self.parent).to(memory_format=torch.contiguous_format),
            train=self.train,
            limit=limit,
            seed=seed,
            model=self.options.model,
            weights=self.options.parent,
            data=self.npz,
            folder=folder,
            epochs=self.options.search_epochs,
        )

    def _cut(self, method: str, limit: float, seed: int) -> tuple[nn.Module, float]:
        """The small network of a method, and the seconds that it took; a finished search is read from its folder."""
        folder = self.folder / f"{method}_{limit:g}_{seed}"
        if (folder / "summary.json").exists():
            run = nas.Run(folder, trust_modules=[self.options.model.partition(":")[0]])
            return run.network(), run.summary["search_seconds"]
        job = self._job(limit, seed, folder)
        torch.manual_seed(seed)
        start = time.perf_counter()
        network = METHODS[method](job)
        return network, time.perf_counter() - start

    def ranks(self, number: int, limit: float, seed: int) -> dict[int, float]:
        """Rank correlations of scores with the accuracy after fine-tuning; see :func:`compress_own.rank_correlations`."""

        def judged(found: nn.Module) -> float:
            network = copy.deepcopy(found)
            fit(network, self.train, epochs=self.options.epochs, lr=self.options.lr, seed=seed)
            return accuracy(network, self.test)

        return rank_correlations(self._job(limit, seed, self.folder), number, judged)

    def row(self, name: str, limit: float, seed: int) -> Row:
        """One network, made smaller and trained; ``missing`` names the package that its method needs."""
        method, _, treatment = name.partition("+")
        row: Row = {"method": name, "limit": limit, "seed": seed, "lines": lines_of(METHODS[method])}
        try:
            found, seconds = self.cut(method, limit, seed)
        except ModuleNotFoundError as error:
            if (package := PACKAGES.get((error.name or "").partition(".")[0])) is None:
                raise
            return {**row, "missing": package}
        network, options, start = copy.deepcopy(found), self.options, time.perf_counter()
        epochs = options.epochs
        if treatment == "scratch":
            network, epochs = fresh(network, seed), epochs + options.parent_epochs
        elif treatment == "longer":
            epochs += options.search_epochs
        before = accuracy(network, self.test)
        lr = options.parent_lr if treatment == "scratch" else options.lr
        teacher = self.parent if treatment == "teacher" else None
        fit(network, self.train, epochs=epochs, lr=lr, seed=seed, teacher=teacher)
        return {
            **row,
            "accuracy": accuracy(network, self.test),
            "before": before,
            "macs": count_macs(network, (self.train.images[:1],)) / self.macs,
            "params": num_params(network),
            "seconds": seconds,
            "fit_seconds": time.perf_counter() - start,
        }


def mean_and(values: Sequence[float], *, of_mean: bool = False) -> str:
    """The mean ± standard deviation; with `of_mean`, ± standard error of the mean."""
    if len(values) < 2:
        return "".join(f"{value:.4f}" for value in values)
    spread = statistics.stdev(values) / (math.sqrt(len(values)) if of_mean else 1)
    return f"{statistics.fmean(values):{'+' if of_mean else ''}.4f} ± {spread:.4f}"


def table(rows: dict[Key, Row]) -> str:
    """Mean ± standard deviation over seeds, and the mean difference ± its standard error of ours to each peer, seed by seed."""
    head = ["limit", "method", "seeds", "accuracy", "ours - this", "before", "MACs", "parameters", "seconds", "lines"]
    lines = []
    for limit, method in dict.fromkeys((row["limit"], row["method"]) for row in rows.values()):
        of = {seed: row for (name, at, seed), row in rows.items() if (name, at) == (method, limit)}
        done = {seed: row for seed, row in of.items() if "missing" not in row}
        lines_of_code = str(next(iter(of.values()))["lines"])
        if not done:
            missing = next(row["missing"] for row in of.values())
            lines.append([f"{limit:g}", method, "0", f"not installed: {missing}", *[""] * 5, lines_of_code])
            continue
        own = {seed: rows.get(("ours", limit, seed), {}).get("accuracy") for seed in done}
        pairs = [score - done[seed]["accuracy"] for seed, score in own.items() if score is not None]
        means = {key: statistics.fmean(row[key] for row in done.values()) for key in MEANS}
        lines.append(
            [
                f"{limit:g}",
                method,
                str(len(done)),
                mean_and([row["accuracy"] for row in done.values()]),
                mean_and(pairs, of_mean=True) if method != "ours" else "",
                f"{means['before']:.4f}",
                f"{means['macs']:.4f}",
                f"{means['params']:,.0f}",
                f"{means['seconds']:.0f}",
                lines_of_code,
            ]
        )
    return markdown_table(head, lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of torchvision's FashionMNIST")
    parser.add_argument("--parent", type=Path, required=True, help="state dict; trained and written if it is missing")
    parser.add_argument("--out", type=Path, required=True, help="rows, one JSON object a line")
    parser.add_argument("--model", default="compress_training:resnet18", help="makes the parent")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--limits", default="0.5,0.25", help="shares of the parent's MACs")
    parser.add_argument("--methods", default=DEFAULT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, help="only this many training images")
    parser.add_argument("--epochs", type=int, default=1, help="of the fine-tuning")
    parser.add_argument("--lr", type=float, default=0.02, help="of the fine-tuning")
    parser.add_argument("--search-epochs", type=int, default=1)
    parser.add_argument("--parent-epochs", type=int, default=14)
    parser.add_argument("--parent-lr", type=float, default=0.1)
    parser.add_argument("--validate", action="store_true", help="hold out training images instead of the test images")
    parser.add_argument("--ranks", type=int, help="print rank correlations of this many random architectures instead")
    parser.add_argument(
        "--table", action="store_true", help="print the table of the rows in --out, and do nothing else"
    )
    options = parser.parse_args(argv)
    rows = read_rows(options.out)
    if not options.table:
        methods, limits = options.methods.split(","), [float(share) for share in options.limits.split(",")]
        treatments = ("", "teacher", "longer", "scratch")
        for name in methods:
            method, _, treatment = name.partition("+")
            if method not in METHODS or treatment not in treatments:
                parser.error(
                    f"--methods: {name!r} is none of {', '.join(METHODS)}, alone or with +teacher, +longer or +scratch"
                )
        torch.set_num_threads(options.threads)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(options.out, "".join(json.dumps(row) + "\n" for row in rows.values()))
        study = Study(options)
        if options.ranks:
            made = [study.ranks(options.ranks, limit, seed) for limit in limits for seed in parse_seeds(options.seeds)]
            print("Kendall's tau of scores after N training steps with fine-tuned accuracies:")
            print("\n".join(f"{steps:3} steps: {mean_and([each[steps] for each in made])}" for steps in made[0]))
            return 0
        for key in wanted(methods, limits, parse_seeds(options.seeds)):
            if key in rows and "missing" not in rows[key]:
                continue
            rows[key] = study.row(*key)
            with open(options.out, "a") as file:
                file.write(json.dumps(rows[key]) + "\n")
            print(json.dumps(rows[key]), file=sys.stderr, flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
