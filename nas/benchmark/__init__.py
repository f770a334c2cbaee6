"""Tabular benchmarks: own tables of stand-alone trainings, and published tables."""

from nas.benchmark.published import DATASETS, open_table
from nas.benchmark.table import PARTS, Part, Table, training_of

__all__ = ["DATASETS", "PARTS", "Part", "Table", "open_table", "training_of"]
