"""Which of 30 measurements of a tumour matter, hidden among 100 decoys: gates beside a filter and L1 logistic regression.

Command: python scripts/feature_selection.py --config configs/select_features.yaml --seeds 0-2

`nas search` chooses the features; as many are chosen by mutual information with the target, and by logistic regression with an L1 penalty
as strong as leaves so many (ties broken by the size of coefficients). All choices are then trained alike, by the configuration's retrain
section, and tested once. The choosers see the training set alone. Words that are not this script's go to the configuration.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from studies import seeds_of, spread
from torch.utils.data import TensorDataset

from nas.data.breast_cancer import NUM_FEATURES
from nas.genotype import Genotype
from nas.io.markdown import markdown_table
from nas.runs.config import load_experiment
from nas.runs.options import ConfigSource
from nas.runs.stages.retrain import retrain_genotype
from nas.runs.stages.search import search
from nas.supernet.gate import DROP, KEEP

PREFIX = "features."


class Row(NamedTuple):
    """One choice of features.

    Attributes:
        method: Who chose.
        num_features: How many.
        num_decoys: Of them decoys.
        test: Accuracy on the test set.
    """

    method: str
    num_features: int
    num_decoys: int
    test: float


def by_mutual_information(x: np.ndarray, y: np.ndarray, num: int, seed: int) -> list[int]:
    """The features that alone say most about the target.

    Source: Kraskov et al. 2004, "Estimating mutual information", as scikit-learn has it.
    """
    return sorted(np.argsort(-mutual_info_classif(x, y, random_state=seed))[:num].tolist())


def by_l1(x: np.ndarray, y: np.ndarray, num: int) -> list[int]:
    """The features that an L1 penalty leaves: the strongest penalty that leaves so many.

    Source: Tibshirani 1996, "Regression Shrinkage and Selection via the Lasso", for logistic regression.
    """
    for strength in np.logspace(-3, 3, 61):
        model = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=strength, random_state=0, max_iter=1000)
        sizes = np.abs(model.fit(x, y).coef_[0])
        if np.count_nonzero(sizes) >= num:
            break
    return sorted(np.argsort(-sizes, kind="stable")[:num].tolist())


def chosen(genotype: Genotype) -> list[int]:
    """The features that an architecture reads."""
    return sorted(
        int(name.removeprefix(PREFIX))
        for name, label in genotype.choices.items()
        if name.startswith(PREFIX) and label == KEEP
    )


def reading(genotype: Genotype, features: Sequence[int]) -> Genotype:
    """The same architecture, but reading these features."""
    others = {name: label for name, label in genotype.choices.items() if not name.startswith(PREFIX)}
    names = [name for name in genotype.choices if name.startswith(PREFIX)]
    wanted = {f"{PREFIX}{i}" for i in features}
    return Genotype({**{name: KEEP if name in wanted else DROP for name in names}, **others})


def compare(source: ConfigSource, seed: int, folder: Path) -> list[Row]:
    """One search and its rivals, each trained and tested."""
    source = source.overridden("seed_everything", seed)
    genotype = search(source, folder / "search").read_genotype()
    features = chosen(genotype)
    train = load_experiment(source).data.train_set(False)
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
        path = folder / f"{number}.json"
        reading(genotype, picked).save(path)
        run = retrain_genotype(path, source, seed=seed, out=folder / f"retrain{number}")
        accuracy = run.read_summary()["test_accuracy"]
        rows.append(Row(method, len(picked), sum(i >= NUM_FEATURES for i in picked), accuracy))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Mean ± standard deviation of every method over its seeds."""
    cells = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        decoys = sum(row.num_decoys for row in mine) / sum(row.num_features for row in mine)
        numbers = [f"{spread([getattr(row, name) for row in mine], form)}" for name, form in FORMS.items()]
        cells.append((method, numbers[0], f"{decoys:.0%}", numbers[1]))
    return markdown_table(("chosen by", "features", "decoys among them", "test accuracy"), cells)


FORMS = {"num_features": ".1f", "test": ".3f"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", default="0-2")
    options, others = parser.parse_known_args()
    rows: list[Any] = []
    for seed in seeds_of(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(ConfigSource((options.config,), tuple(others)), seed, Path(folder))
    print(table(rows))


if __name__ == "__main__":
    main()
