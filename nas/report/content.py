"""What a report says of a run, before it gets a form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.genotype import Genotype
from nas.io.csv_file import read_columns
from nas.io.errors import UsageError
from nas.io.json_file import read_json
from nas.runs.folder import RunFolder
from nas.runs.options import check_yaml, trust_words
from nas.runs.targets import target_lines

Table = dict[str, str]


@dataclass(frozen=True)
class Content:
    """A run, as far as it came.

    Attributes:
        title: The run folder.
        folder: It.
        genotype: What was found.
        facts: Figures of the search.
        retrained: Figures of the retraining; empty where there is none.
        history: (batches, tag -> value) of metrics.csv.
        config: Text of config.yaml.
        provenance: Versions, commit, device.
        commands: What repeats the run.
    """

    title: str
    folder: RunFolder
    genotype: Genotype
    facts: Table
    retrained: Table
    history: list[tuple[int, dict[str, float]]]
    config: str
    provenance: Table
    commands: tuple[str, ...]


def read_content(path: Path, trusted: tuple[str, ...] = ()) -> Content:
    """Reads a finished run.

    Raises:
        UsageError: Not a run folder, not finished, or damaged.
    """
    folder = RunFolder.open(path)
    check_yaml(folder.config)
    try:
        return _read_content(folder, trusted)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{folder.shown}: summary.json or manifest.json is damaged: {error!r:.80}") from None


def _read_content(folder: RunFolder, trusted: tuple[str, ...]) -> Content:
    summary = folder.read_summary()
    manifest = read_json(folder.manifest, f"{folder.shown}: not finished (manifest.json is missing)")
    retrained = folder.retrain.read_summary() if folder.stage == "search" and folder.retrain.finished else {}
    trust = trust_words(trusted)
    seed = summary.get("seed", 0)
    commands = (
        [f"nas search --config {folder.quoted}/config.yaml{trust}", f"nas retrain --run {folder.quoted}{trust}"]
        if folder.stage == "search"
        else [f"nas retrain --genotype {folder.quoted}/genotype.json --config {folder.quoted}/config.yaml{trust}"]
    )
    return Content(
        title=f"{folder.path.parent.name}/{folder.path.name}",
        folder=folder,
        genotype=folder.read_genotype(),
        facts=_facts(summary),
        retrained=_facts(retrained) if retrained else {},
        history=read_columns(folder.metrics_csv),
        config=folder.config.read_text(),
        provenance={
            "seed": str(seed),
            "device": str(summary.get("device", "")),
            "commit": str(manifest.get("git_commit") or "not in a repository"),
            **{str(key): str(value) for key, value in manifest.get("versions", {}).items()},
        },
        commands=tuple(commands),
    )


def _facts(summary: Mapping[str, Any]) -> Table:
    metric = summary["metric"]
    what = "inherited weights, arch half" if metric.get("split") == "arch" else f"{metric.get('split')} set"
    facts = {f"{metric['name']} ({what})": _number(metric["value"])}
    for key, name in _NAMES.items():
        if key in summary:
            facts[name] = _number(summary[key])
    for key, value in (summary.get("cost") or {}).items():
        facts[_NAMES.get(key, key)] = _number(value)
    if (replaced := summary.get("replaced")) is not None:
        facts["replaced by model.guards.max_skip_share"] = ", ".join(
            f"{name}={value}" for name, value in replaced.items()
        )
    return facts | target_lines(summary.get("target") or {})


_NAMES = {
    "params": "parameters",
    "macs": "MACs of one sample",
    "num_architectures": "architectures in the space",
    "search_seconds": "search, seconds",
    "train_seconds": "training, seconds",
    "test_loss": "test loss",
}


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
