"""Reads search spaces and genotypes from files, and writes genotypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from nas.genotype import Genotype
from nas.io.errors import UsageError, as_usage_error, writing_for_user
from nas.io.reading import MAX_JSON_BYTES, MAX_NOTATION_BYTES, read_text
from nas.runs.class_paths import check_named, reading_files
from nas.runs.config import Experiment, with_arguments
from nas.runs.options import ConfigSource, check_texts
from nas.supernet.search_space import SearchSpace


def load_space(spec: Mapping[str, Any], trusted: Sequence[str], source: str = "space") -> SearchSpace:
    """The search space of ``{"class_path", "init_args"}``. `source` begins the messages of errors.

    Raises:
        UsageError: The class is not allowed, or the arguments do not fit.
    """
    parser = ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    parser.add_argument("--space", type=SearchSpace, required=True)
    with reading_files(source, trusted):
        check_texts(dict(spec), "init_args")
        parsed = parser.parse_object({"space": dict(spec)})
        check_named(parsed, trusted)
        space: SearchSpace = parser.instantiate(parsed).space
    return space


def space_spec(source: ConfigSource, stage: str = "search") -> dict[str, Any]:
    """Class path and arguments of the space in a resolved configuration; raises UsageError where there is none.

    Args:
        source: The configuration.
        stage: ``"search"``, or ``"retrain"`` to apply the arguments of the retrain section.
    """
    path = source.files[-1]
    values = source.contents[-1]
    model, retrain = values.get("model"), values.get("retrain")
    spec = model.get("space") if isinstance(model, dict) else None
    if spec is None and source.is_own_code:
        raise UsageError(
            f"{path}: this search does not know how its network is made; give nas.Searcher a class or a functools.partial of it"
        )
    if not isinstance(spec, dict):
        raise UsageError(f"{path}: model.space must be a class path with its arguments, got {spec!r:.80}")
    changes = retrain.get("space") if stage == "retrain" and isinstance(retrain, dict) else None
    return with_arguments(spec, changes)


def load_space_of(source: ConfigSource, stage: str = "search") -> SearchSpace:
    """The search space of a resolved configuration, without its data; raises UsageError where it cannot be made."""
    return load_space(space_spec(source, stage), source.trusted, f"{source.files[-1]}: model.space")


def load_genotype(path: Path, space: SearchSpace) -> Genotype:
    """Reads genotype.json or the published notation of the space; raises UsageError if the file has neither format."""
    text = read_text(path, MAX_JSON_BYTES)
    if text.lstrip().startswith("{"):
        return Genotype.from_json(text, str(path))
    if len(text) > MAX_NOTATION_BYTES:
        raise UsageError(
            f"{path}: neither a genotype.json nor a genotype in the space's notation (at most {MAX_NOTATION_BYTES} bytes)"
        )
    with as_usage_error(str(path)):
        return space.parse_genotype(text.strip())


def read_genotype_of(path: Path, experiment: Experiment) -> Genotype:
    """The architecture of a genotype file; raises UsageError if it belongs to another space than the configuration's."""
    genotype = load_genotype(path, experiment.model["space"])
    expected = experiment.values["model"]["space"]["class_path"]
    if genotype.space is not None and genotype.space["class_path"] != expected:
        raise UsageError(
            f"{path}: this is a genotype of {genotype.space['class_path']}, but the configuration's space is {expected}"
        )
    return genotype


def save_genotype(genotype: Genotype, out: Path | None) -> None:
    """Writes a genotype to a file that the user names; raises UsageError if it cannot be written."""
    if out is not None:
        with writing_for_user(out):
            genotype.save(out)
