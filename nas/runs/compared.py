"""A trained network beside the smaller one that a run made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.io.errors import UsageError
from nas.io.json_file import Document
from nas.runs.folder import RunFolder
from nas.runs.networks import find_network
from nas.runs.stages.evaluate import figures_of
from nas.supernet.supernet import Supernet

FILE = "compression.json"
DOCUMENT = Document("a compression", "gumbel-nas/compression")
_COSTS = {
    "params": ("parameters", "{:,}"),
    "macs": ("MACs of one sample", "{:,}"),
    "latency_ms": ("time of one sample", "{:.3g} ms"),
}


def write_compared(folder: RunFolder, trusted: tuple[str, ...]) -> None:
    """Tests and measures the network before and after, and writes compression.json.

    Its keys: ``metric``, the name of the headline metric; ``before`` and ``after`` with the figures of
    :func:`nas.runs.stages.evaluate.figures_of`; ``cuts``, for each choice its name, and the numbers ``kept`` and ``all`` of units, 0 or 1
    of 1 for a block.

    The space must know its trained network.
    """
    found = find_network(folder.path, trusted)
    space, data = found.experiment.model["space"], found.experiment.data
    parent = space.parent()
    labels = Supernet(space.network()).choices
    DOCUMENT.save(
        folder.path / FILE,
        {
            "metric": next(iter(found.task.metrics())),
            "before": figures_of(parent, data, found.task, found.device),
            "after": figures_of(found.network, data, found.task, found.device),
            "cuts": [_cut(name, chosen, labels[name]) for name, chosen in found.genotype.choices.items()],
        },
    )


def _cut(name: str, chosen: Any, labels: tuple[str, ...]) -> dict[str, Any]:
    if not all(label.isdecimal() for label in labels):
        return {"name": name, "kept": int(chosen == "keep"), "all": 1}
    return {"name": name, "kept": int(chosen), "all": max(map(int, labels))}


def read_compared(folder: RunFolder) -> dict[str, Any] | None:
    """The content of compression.json; None without this file. Raises UsageError if the file is damaged."""
    path = folder.path / FILE
    if not path.is_file():
        return None
    content = DOCUMENT.load(path)
    try:
        rows_of(content), cut_rows(content), sentence_of(content)
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
        raise UsageError(f"{path}: damaged") from None
    return content


def rows_of(content: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of text: name of a figure, before, after, change. The headline metric comes first."""
    before, after, metric = content["before"], content["after"], content["metric"]
    first, last = before[f"test_{metric}"], after[f"test_{metric}"]
    rows = [(f"test {metric}", f"{first:.4f}", f"{last:.4f}", f"{last - first:+.4f}")]
    for key, (name, form) in _COSTS.items():
        first, last = before[key], after[key]
        rows.append((name, form.format(first), form.format(last), f"{last / first - 1:+.1%}"))
    return rows


def cut_rows(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of text: name of a group or block, number of units kept, number of all."""
    return [(cut["name"], str(cut["kept"]), str(cut["all"])) for cut in content["cuts"]]


def sentence_of(content: Mapping[str, Any]) -> str:
    """The result in words."""
    before, after, metric = content["before"], content["after"], content["metric"]
    shares = {key: f"{after[key] / before[key]:.0%}" for key in _COSTS}
    return (
        f"The {metric} on the test set is {after[f'test_{metric}']:.4f}; that of the original network is "
        f"{before[f'test_{metric}']:.4f}. The smaller network needs {shares['macs']} of the multiply-accumulates (MACs), "
        f"{shares['params']} of the parameters and {shares['latency_ms']} of the time of the original."
    )
