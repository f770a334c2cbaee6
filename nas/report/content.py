"""The content of a report, independent of its format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nas.derive.stability import stability_text
from nas.genotype import Genotype, choices_text, key_of
from nas.io.csv_file import read_columns
from nas.io.errors import UsageError
from nas.io.json_file import read_json
from nas.runs.compared import read_compared
from nas.runs.decided import read_decided
from nas.runs.folder import RunFolder
from nas.runs.options import OWN_CODE, check_yaml, trust_words
from nas.runs.targets import target_lines

Table = dict[str, str]

_NAMES = {
    "params": "parameters",
    "macs": "MACs of one sample",
    "num_architectures": "architectures in the space",
    "search_seconds": "search, seconds",
    "train_seconds": "training, seconds",
    "test_loss": "test loss",
}


class Content(NamedTuple):
    """The content of a report.

    Attributes:
        folder: The run folder.
        genotype: The architecture.
        facts: Figures of the search.
        retrained: Figures of the retraining; empty without one.
        compared: The content of compression.json; empty for runs that compress no network.
        decided: The content of distribution.json; empty if no distribution over architectures was learned.
        searching: (batches, tag -> value) of the metrics.csv of the search; empty for a retraining without a search.
        retraining: The same of the retraining; empty without one.
        config: Text of config.yaml.
        provenance: Seed, device, commit and versions.
        commands: Commands that repeat the run, or use its network if training code of the user made it.
    """

    folder: RunFolder
    genotype: Genotype
    facts: Table
    retrained: Table
    compared: Mapping[str, Any]
    decided: Mapping[str, Any]
    searching: list[tuple[int, dict[str, float]]]
    retraining: list[tuple[int, dict[str, float]]]
    config: str
    provenance: Table
    commands: list[str]

    @property
    def probable(self) -> list[tuple[str, str, str, str]]:
        """A row of text for each of the most probable architectures: place, choices, probability, and loss where it was scored."""
        losses = {key_of(entry["choices"]): f"{entry['loss']:.4g}" for entry in self.decided.get("scored", ())}
        moments = self.decided.get("moments") or [{"most_probable": ()}]
        return [
            (
                str(place),
                choices_text(entry["choices"]),
                f"{entry['probability']:.3f}",
                losses.get(key_of(entry["choices"]), ""),
            )
            for place, entry in enumerate(moments[-1]["most_probable"], 1)
        ]

    @property
    def marked(self) -> dict[str, Mapping[str, Any]]:
        """The architectures that pictures mark: text -> choices."""
        named = {"chosen": self.decided["chosen"], "runner-up": self.decided["runner_up"]}
        return {text: choices for text, choices in named.items() if choices is not None}

    @property
    def commands_title(self) -> str:
        """The heading of the commands."""
        return "How to use the network" if self.folder.is_own_code else "How to repeat the run"

    @property
    def title(self) -> str:
        """The last two names of the run folder's path."""
        return "/".join(self.folder.path.parts[-2:])


def read_content(path: Path, trusted: tuple[str, ...] = ()) -> Content:
    """Reads a finished run; a UsageError if the run is unfinished or damaged."""
    folder = RunFolder.open(path)
    check_yaml(folder.config)
    try:
        return _read_content(folder, trusted)
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(f"{folder.shown}: summary.json or manifest.json is damaged: {error!r:.80}") from None


def _read_content(folder: RunFolder, trusted: tuple[str, ...]) -> Content:
    summary, is_search = folder.read_summary(), folder.stage == "search"
    manifest = read_json(folder.manifest, f"{folder.shown}: not finished (manifest.json is missing)")
    retrained = is_search and folder.retrain.finished
    config, trust = f"--config {folder.quoted}/config.yaml", trust_words(trusted)
    genotype = folder.read_genotype()
    if folder.is_own_code:
        commands = [] if genotype.space is None else _own_commands(folder, genotype.space, trusted)
    elif is_search:
        commands = [f"nas search {config}{trust}", f"nas retrain --run {folder.quoted}{trust}"]
    else:
        commands = [f"nas retrain --genotype {folder.quoted}/genotype.json {config}{trust}"]
    return Content(
        folder=folder,
        genotype=genotype,
        facts=_facts(summary),
        retrained=_facts(folder.retrain.read_summary()) if retrained else {},
        compared=read_compared(folder) or {},
        decided=read_decided(folder.path) or {},
        searching=_metrics(folder if is_search else folder.search),
        retraining=_metrics(folder.retrain if retrained else None if is_search else folder),
        config=folder.config.read_text(),
        provenance={
            "seed": str(summary.get("seed", 0)),
            "device": str(summary.get("device", "")),
            "commit": str(manifest.get("git_commit") or "not in a repository"),
            **{str(key): str(value) for key, value in manifest.get("versions", {}).items()},
        },
        commands=commands,
    )


def _metrics(folder: RunFolder | None) -> list[tuple[int, dict[str, float]]]:
    return [] if folder is None else read_columns(folder.metrics_csv)


def _own_commands(folder: RunFolder, space: Mapping[str, Any], trusted: tuple[str, ...]) -> list[str]:
    """Commands that use the network of a search in training code of the user, and trust the module of its class."""
    module = space["init_args"]["network"]["class_path"].rpartition(".")[0]
    trust = trust_words((*trusted, *(() if module in trusted else (module,))))
    return [f"nas {command} --run {folder.quoted}{trust}" for command in ("evaluate", "export")]


def _facts(summary: Mapping[str, Any]) -> Table:
    metric = summary["metric"]
    split = "inherited weights, arch split" if metric.get("split") == "arch" else f"{metric.get('split')} set"
    facts = {f"{metric['name']} ({split})": _number(metric["value"])}
    if summary.get(OWN_CODE):  # measured by the user, who knows on what
        facts = {name: _number(value) for name, value in summary["metrics"].items()}
    facts |= {name: _number(summary[key]) for key, name in _NAMES.items() if key in summary}
    facts |= {_NAMES.get(key, key): _number(value) for key, value in (summary.get("cost") or {}).items()}
    if (replaced := summary.get("replaced")) is not None:
        facts["replaced by model.guards.max_skip_share"] = choices_text(replaced)
    if (stability := summary.get("stability")) is not None:
        facts["stability"] = stability_text(stability)
    return facts | target_lines(summary.get("target") or {})


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
