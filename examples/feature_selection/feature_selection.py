"""Feature selection by gates, compared with a filter and L1 logistic regression.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from torch.utils.data import TensorDataset

import nas
from nas.cli.launch_command import parse_seeds
from nas.data.breast_cancer import NUM_FEATURES
from nas.genotype import Genotype
from nas.io.markdown import markdown_table
from nas.supernet.gate import DROP, KEEP

sys.path.insert(0, str(Path(__file__).parents[1]))
from studies import spread

PREFIX = "features."


class Row(NamedTuple):
    """One choice of features.

    Attributes:
        method: Name of the method.
        num_features: Number of chosen features.
        num_decoys: Number of decoys among them.
        test: Accuracy on the test set.
    """

    method: str
    num_features: int
    num_decoys: int
    test: float


def by_mutual_information(x: np.ndarray, y: np.ndarray, num: int, seed: int) -> list[int]:
    """The features with the most mutual information with the target, one at a time.

    Source: Kraskov et al. 2004, "Estimating mutual information", by scikit-learn.
    """
    return sorted(np.argsort(-mutual_info_classif(x, y, random_state=seed))[:num].tolist())


def by_l1(x: np.ndarray, y: np.ndarray, num: int) -> list[int]:
    """The features with the largest coefficients under the strongest L1 penalty that leaves enough of them.

    Source: Tibshirani 1996, "Regression Shrinkage and Selection via the Lasso", for logistic regression.
    """
    for strength in np.logspace(-3, 3, 61):
        model = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=strength, random_state=0, max_iter=1000)
        sizes = np.abs(model.fit(x, y).coef_[0])
        if np.count_nonzero(sizes) >= num:
            break
    return sorted(np.argsort(-sizes, kind="stable")[:num].tolist())


def chosen(genotype: Genotype) -> list[int]:
    """Numbers of the features that an architecture reads."""
    return sorted(
        int(name.removeprefix(PREFIX))
        for name, label in genotype.choices.items()
        if name.startswith(PREFIX) and label == KEEP
    )


def reading(genotype: Genotype, features: Sequence[int]) -> Genotype:
    """The same architecture, reading these features."""
    others = {name: label for name, label in genotype.choices.items() if not name.startswith(PREFIX)}
    names = [name for name in genotype.choices if name.startswith(PREFIX)]
    wanted = {f"{PREFIX}{i}" for i in features}
    return Genotype({**{name: KEEP if name in wanted else DROP for name in names}, **others})


def compare(source: nas.ConfigSource, seed: int, folder: Path) -> list[Row]:
    """One search and the other methods, each trained and tested."""
    source = source.overridden("seed_everything", seed)
    genotype = nas.search(source, out=folder / "search").genotype
    features = chosen(genotype)
    train = nas.experiment(source).data.train_set(False)
    assert isinstance(train, TensorDataset)
    x, y = (tensor.numpy() for tensor in train.tensors)
    choosers: dict[str, Callable[[], list[int]]] = {
        "gates": lambda: features,
        "mutual information": lambda: by_mutual_information(x, y, len(features), seed),
        "L1 logistic regression": lambda: by_l1(x, y, len(features)),
        "all features": lambda: list(range(x.shape[1])),
    }
    rows = []
    for number, (method, choose) in enumerate(choosers.items()):
        picked = choose()
        run = nas.retrain(reading(genotype, picked), source, out=folder / f"retrain{number}")
        accuracy = run.summary["test_accuracy"]
        rows.append(Row(method, len(picked), sum(i >= NUM_FEATURES for i in picked), accuracy))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Mean ± standard deviation of every method over its seeds."""
    cells = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        decoys = sum(row.num_decoys for row in mine) / sum(row.num_features for row in mine)
        num_features = spread([row.num_features for row in mine], ".1f")
        cells.append((method, num_features, f"{decoys:.0%}", spread([row.test for row in mine])))
    return markdown_table(("chosen by", "features", "decoys among them", "test accuracy"), cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", type=parse_seeds, default="0-2")
    options, others = parser.parse_known_args()
    rows: list[Any] = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(nas.ConfigSource((options.config,), tuple(others)), seed, Path(folder))
    print(table(rows))


if __name__ == "__main__":
    main()
