"""Comparisons of methods: with random search of equal cost, and with each other seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from scipy.stats import ttest_rel

ROUNDING = 1e-6
"""Metrics are float32: differences that vary by less than this share of the values are equal."""


def best_of(validation: Sequence[float], worth: Sequence[float], num: float) -> float:
    """The expected worth of random search: of the architecture that is best in validation among `num` different random ones.

    The architecture of validation rank i among N is the find with probability C(N - i, num - 1) / C(N, num). Architectures of equal
    validation score are equally probable finds.

    Args:
        validation: The score of each architecture by which random search chooses; higher is better.
        worth: The score of each architecture by which the find is judged.
        num: Number of architectures, from 1 to the length of `validation`; between whole numbers, the result is interpolated.
    """
    low, total = math.floor(num), len(validation)
    if num > low:
        share = num - low
        return (1 - share) * best_of(validation, worth, low) + share * best_of(validation, worth, low + 1)
    ranked = sorted(zip(validation, worth, strict=True), key=lambda pair: -pair[0])
    result, num_better = 0.0, 0
    for _, group in groupby(ranked, key=lambda pair: pair[0]):
        equal = [value for _, value in group]
        none_better = math.comb(total - num_better, low)
        num_better += len(equal)
        result += (none_better - math.comb(total - num_better, low)) / math.comb(total, low) * statistics.fmean(equal)
    return result


def random_search(validation: Sequence[float], worth: Sequence[float], cost: float) -> dict[str, float | None]:
    """Random search at the cost of a search, estimated from a sample of N architectures.

    Args:
        validation: See :func:`best_of`.
        worth: See :func:`best_of`.
        cost: Number of trainings; less than 1 counts as 1, and more than N as N.

    Returns:
        ``num``, the number of trainings that was used; ``mean``, the expected worth; ``error``, its standard error by the jackknife over
        architectures (None for fewer than three).
    """
    total = len(validation)
    num = min(max(cost, 1.0), total)
    if total < 3:
        return {"num": num, "mean": best_of(validation, worth, num), "error": None}
    left_out = [
        best_of([*validation[:i], *validation[i + 1 :]], [*worth[:i], *worth[i + 1 :]], min(num, total - 1))
        for i in range(total)
    ]
    error = math.sqrt((total - 1) * statistics.pvariance(left_out))
    return {"num": num, "mean": best_of(validation, worth, num), "error": error}


def difference(values: Sequence[float], chance: Mapping[str, float | None]) -> dict[str, float | None]:
    """The mean of `values` minus that of :func:`random_search`, with its standard error (None if one of the two is unknown)."""
    assert chance["mean"] is not None
    result: dict[str, float | None] = {"mean": statistics.fmean(values) - chance["mean"], "error": None}
    if len(values) > 1 and chance["error"] is not None:
        result["error"] = math.hypot(statistics.stdev(values) / math.sqrt(len(values)), chance["error"])
    return result


def paired(values: Mapping[int, float], others: Mapping[int, float]) -> dict[str, Any]:
    """The differences of two methods at the same seeds.

    Returns:
        ``num``, the number of seeds that both have; ``mean`` of the differences and its standard ``error``; ``p_value`` of the two-sided
        paired t-test. Entries that the number of seeds, or equal differences, leave undefined are None.
    """
    seeds = sorted(values.keys() & others.keys())
    differences = [values[seed] - others[seed] for seed in seeds]
    result: dict[str, Any] = {"num": len(seeds), "mean": None, "error": None, "p_value": None}
    if seeds:
        result["mean"] = statistics.fmean(differences)
    if len(seeds) > 1:
        result["error"] = statistics.stdev(differences) / math.sqrt(len(seeds))
        largest = max(abs(value) for seed in seeds for value in (values[seed], others[seed]))
        if result["error"] > ROUNDING * largest:
            result["p_value"] = float(ttest_rel([values[s] for s in seeds], [others[s] for s in seeds]).pvalue)
    return result
