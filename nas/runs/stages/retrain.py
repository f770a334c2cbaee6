"""Trains a derived network on all training data, and tests it once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from nas.derive.inherited import InheritedScore
from nas.evaluation import evaluate
from nas.genotype import Genotype
from nas.io.errors import UsageError, as_usage_error
from nas.io.files import check_no_links, write_atomic
from nas.runs.build import build_network, restore_search, retrain_module, try_training
from nas.runs.config import Experiment, load_experiment, resolved
from nas.runs.extras import add_extras
from nas.runs.folder import RunFolder
from nas.runs.judging import searched_of
from nas.runs.options import ConfigSource, check_yaml
from nas.runs.pages import write_pages
from nas.runs.processes import Processes
from nas.runs.results import cost_of, headline
from nas.runs.spaces import read_genotype_of
from nas.runs.trainer import make_trainer, train


def retrain_run(
    path: Path, *, seed: int | None, inherit: bool, out: Path | None, trusted: tuple[str, ...], force: bool = False
) -> RunFolder:
    """Retrains the architecture of a search, in `out` or in ``retrain`` inside the run folder.

    With `force`, resumes an unfinished retraining even if versions or the user's modules have changed.

    Raises:
        UsageError: An error found before the first file is written.
    """
    run = RunFolder.open(path, "search")
    if out is None:
        check_no_links(run.path)
    genotype = run.read_genotype()
    source = run.source(trusted)
    if inherit:
        source = source.overridden("retrain.inherit", True)
    if seed is not None:
        source = source.overridden("seed_everything", seed)
    experiment = load_experiment(source, stage="retrain")
    weights = None
    if experiment.retrain.inherit:
        searched = load_experiment(run.source(trusted))
        module = restore_search(run, searched)
        if not module.space.inherits_weights:
            raise UsageError(
                f"--inherit: networks of {type(module.space).__name__} cannot inherit the supernet's weights"
            )
        score = InheritedScore(searched_of(module, searched.data, module.device))
        weights = score.network(genotype.choices).state_dict()
    return _retrain(experiment, genotype, out or run.retrain.path, run.path.name, weights, force)


def retrain_genotype(
    genotype: Path | Genotype, source: ConfigSource, *, seed: int | None, out: Path | None, force: bool = False
) -> RunFolder:
    """Trains any architecture, or the architecture of a file, in `out` or ``runs/<config name>/<n>``.

    With `force`, resumes an unfinished retraining even if versions or the user's modules have changed.

    Raises:
        UsageError: An error found before the first file is written.
    """
    if seed is not None:
        source = source.overridden("seed_everything", seed)
    experiment = load_experiment(source, stage="retrain")
    found = genotype if isinstance(genotype, Genotype) else read_genotype_of(genotype, experiment)
    if experiment.retrain.inherit:
        raise UsageError("retrain.inherit: a genotype file has no weights; use nas retrain --run DIR --inherit")
    return _retrain(experiment, found, out, source.name, None, force)


def _retrain(
    experiment: Experiment,
    genotype: Genotype,
    out: Path | None,
    name: str,
    weights: dict[str, Any] | None,
    force: bool,
) -> RunFolder:
    trainer = add_extras(make_trainer(experiment.trainer), experiment)
    processes = Processes.of(trainer)
    genotype = replace(genotype, space=experiment.values["model"]["space"])
    network, data = build_network(experiment, genotype), experiment.data
    if weights is not None:
        _inherit(network, weights)
    module = retrain_module(experiment, network)
    with as_usage_error():
        data.prepare_data()
        loader = data.retrain_loader(experiment.seed, rank=processes.rank, world_size=processes.size)
    try_training(experiment, module, loader, test=True)
    folder = processes.folder(out, lambda: _folder(experiment, genotype, out, name))
    again = f"the same nas retrain command with --out {folder.quoted}"
    with processes.writing(folder):
        record = experiment.record(force=force)
        trained = train(trainer, experiment.trainer, module, loader, folder, "retrain", again, record=record)
        module.float()
        scores = evaluate(network, data.test_dataloader(), module.task, trained.device)
        summary = {
            "stage": "retrain",
            "genotype": dict(genotype.choices),
            "metric": {**headline(module.task, scores), "split": "test"},
            **{f"test_{key}": value for key, value in scores.items()},
            **cost_of(network, data),
            "train_seconds": trained.seconds,
            "skipped_batches": module.num_skipped_batches,
            "inherited": experiment.retrain.inherit,
            "seed": experiment.seed,
            "device": str(trained.device),
        }
        write_pages(folder, experiment.values, genotype, summary, module.num_batches_done)
        folder.finish(summary, genotype)
    return folder


def _folder(experiment: Experiment, genotype: Genotype, out: Path | None, name: str) -> RunFolder:
    """A new folder, or the folder of the same unfinished retraining."""
    if out is not None and (out / "config.yaml").exists():
        folder = RunFolder.open(out, "retrain")
        if folder.finished:
            raise UsageError(f"{folder.shown} holds a finished retraining; name another folder with --out")
        begun = resolved(check_yaml(folder.config), experiment.trusted)
        if begun != experiment.values or folder.read_genotype() != genotype:
            raise UsageError(
                f"{folder.shown} holds an unfinished retraining with other settings; name another folder with --out"
            )
        return folder

    def fill(new: RunFolder) -> None:
        genotype.save(new.genotype)
        write_atomic(new.config, experiment.yaml)

    return RunFolder.create(out, name, fill)


def _inherit(network: nn.Module, weights: dict[str, Any]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(
            f"--inherit: the retrained network has other sizes than the searched network: {error}"
        ) from None
