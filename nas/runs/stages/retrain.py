"""Training a derived network on all training data, and testing it once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from nas.data.loader import ResumableLoader
from nas.evaluation import evaluate
from nas.genotype import Genotype
from nas.io.errors import UsageError
from nas.io.files import check_no_links, write_atomic
from nas.io.reading import MAX_JSON_BYTES, MAX_NOTATION_BYTES, read_text
from nas.io.rng import derive_seed, seed_global_generators
from nas.runs.build import as_usage_error, restore_search, restore_weights, try_once
from nas.runs.config import Experiment, load_experiment
from nas.runs.folder import RunFolder
from nas.runs.options import ConfigSource
from nas.runs.pages import write_pages
from nas.runs.record import RunProvenance
from nas.runs.results import cost_of, headline, recalibrated_network
from nas.runs.trainer import check_batches, prepare_machine, processes_of, train
from nas.supernet.building import architecture
from nas.supernet.search_space import SearchSpace
from nas.tasks import Task
from nas.training.retrain_module import RetrainModule


def retrain_run(
    path: Path, *, seed: int | None, inherit: bool, out: Path | None, trusted: tuple[str, ...], force: bool = False
) -> RunFolder:
    """Retrains what a search found.

    Args:
        path: Run folder of the search.
        seed: Seed of weights and data order; None: the search's.
        inherit: Start from the supernet's weights.
        out: The folder to make; None: ``retrain`` inside the run folder.
        trusted: The user's own modules.
        force: Go on with an unfinished one though versions or the user's modules are not those that it was begun with.

    Raises:
        UsageError: Found before anything was written.
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
            raise UsageError(f"--inherit: networks of {type(module.space).__name__} cannot take the supernet's weights")
        weights = recalibrated_network(module, genotype, searched.data, module.device).state_dict()
    return _retrain(experiment, genotype, out or run.retrain.path, run.path.name, weights, force)


def retrain_genotype(
    genotype: Path, source: ConfigSource, *, seed: int | None, out: Path | None, force: bool = False
) -> RunFolder:
    """Trains the architecture of a genotype file, from wherever it comes.

    Args:
        genotype: A genotype.json, or a text in the space's published notation.
        source: Configuration of its space.
        seed: Seed of weights and data order; None: the configuration's.
        out: The folder to make; None: ``runs/<config name>/<n>``.
        force: Go on with an unfinished one though versions or the user's modules are not those that it was begun with.

    Raises:
        UsageError: Found before anything was written.
    """
    if seed is not None:
        source = source.overridden("seed_everything", seed)
    experiment = load_experiment(source, stage="retrain")
    found = read_genotype_of(genotype, experiment)
    if experiment.retrain.inherit:
        raise UsageError("retrain.inherit: inherited weights come from a run; use nas retrain --run DIR --inherit")
    return _retrain(experiment, found, out, source.name, None, force)


def read_genotype_of(path: Path, experiment: Experiment) -> Genotype:
    """The architecture of a genotype file, which must be of the configuration's space.

    Raises:
        UsageError: It cannot be read, or is of another space.
    """
    genotype = load_genotype(path, experiment.model["space"])
    expected = experiment.values["model"]["space"]["class_path"]
    if genotype.space is not None and genotype.space["class_path"] != expected:
        raise UsageError(
            f"{path}: a genotype of {genotype.space['class_path']}, but the configuration's space is {expected}"
        )
    return genotype


def load_genotype(path: Path, space: SearchSpace) -> Genotype:
    """Reads a genotype.json, or a text in the space's own published notation.

    Raises:
        UsageError: The file cannot be read, or is neither.
    """
    text = read_text(path, MAX_JSON_BYTES)
    if text.lstrip().startswith("{"):
        return Genotype.from_json(text, str(path))
    if len(text) > MAX_NOTATION_BYTES:
        raise UsageError(
            f"{path}: neither a genotype.json nor, with more than {MAX_NOTATION_BYTES} bytes, a notation of one"
        )
    with as_usage_error(str(path)):
        return space.parse_genotype(text.strip())


def build_network(experiment: Experiment, genotype: Genotype) -> nn.Module:
    """The plain network of a genotype, weights drawn from the seed.

    Raises:
        UsageError: The genotype does not fit the space.
    """
    seed_global_generators(derive_seed(experiment.seed, "init/retrain"))
    space: SearchSpace = experiment.model["space"]
    with as_usage_error():
        space.check_genotype(genotype.choices)
        with architecture(genotype):
            return space.network("retrain")


def retrain_task(experiment: Experiment) -> Task:
    """The task of the retraining."""
    task: Task = experiment.retrain.task or experiment.model["task"]
    return task


def restore_network(folder: RunFolder, experiment: Experiment) -> nn.Module:
    """The trained network of a retraining.

    Raises:
        ValueError: No checkpoint is whole.
    """
    module = RetrainModule(build_network(experiment, folder.read_genotype()), retrain_task(experiment))
    restore_weights(module, folder)
    return module.network


def load_retraining(source: ConfigSource) -> Experiment:
    """The configuration of the retraining that follows a search.

    Raises:
        UsageError: The retrain section does not fit.
    """
    try:
        return load_experiment(source, stage="retrain")
    except UsageError as error:
        raise UsageError(f"retrain: {error}") from error


def check_retraining(experiment: Experiment, genotype: Genotype) -> None:
    """Tries the retrain section before a search, on any architecture of the space, so that its errors do not come after hours.

    Args:
        experiment: Loaded for the stage ``"retrain"``.
        genotype: The architecture.

    Raises:
        UsageError: It does not work.
    """
    try:
        module = retrain_module(experiment, build_network(experiment, genotype))
        with as_usage_error():
            loader = experiment.data.retrain_loader(experiment.seed)
        try_training(experiment, module, loader, test=False)
    except UsageError as error:
        raise UsageError(f"retrain: {error}") from error


def retrain_module(experiment: Experiment, network: nn.Module) -> RetrainModule:
    """What trains a network as the retrain section says.

    Raises:
        UsageError: The section does not fit.
    """
    options = experiment.retrain
    with as_usage_error():
        return RetrainModule(
            network,
            retrain_task(experiment),
            optimizer=options.optimizer,
            scheduler=options.scheduler,
            gradient_clip_norm=options.gradient_clip_norm,
            max_skipped_batches=options.max_skipped_batches,
            num_micro_batches=options.num_micro_batches,
            seed=experiment.seed,
        )


def try_training(experiment: Experiment, module: RetrainModule, loader: ResumableLoader, *, test: bool) -> None:
    """Tries module and loader on two samples; the test set's targets are looked at too where `test`.

    Raises:
        UsageError: They do not fit together.
    """
    network, data = module.network, experiment.data
    with as_usage_error():
        check_batches(experiment.trainer, loader)
        tested = data.test_targets() if test else None
        module.metric_names = try_once(network, network, data, module.task, data.train_targets(), tested)


def _retrain(
    experiment: Experiment,
    genotype: Genotype,
    out: Path | None,
    name: str,
    weights: dict[str, Any] | None,
    force: bool,
) -> RunFolder:
    prepare_machine(experiment.trainer)
    processes = processes_of(experiment.trainer)
    genotype = replace(genotype, space=experiment.values["model"]["space"])
    network, data = build_network(experiment, genotype), experiment.data
    if weights is not None:
        _inherit(network, weights)
    module = retrain_module(experiment, network)
    with as_usage_error():
        data.prepare_data()
        loader = data.retrain_loader(experiment.seed, rank=processes.rank, world_size=processes.size)
    try_training(experiment, module, loader, test=True)
    task = module.task
    folder = processes.folder(out, lambda: _folder(experiment, genotype, out, name))
    again = f"the same nas retrain command with --out {folder.quoted}"
    with processes.writing(folder):
        record = RunProvenance(experiment.yaml(), experiment.trusted, force=force)
        trained = train(experiment.trainer, module, loader, folder, "retrain", again, record=record)
        module.float()
        scores = evaluate(network, data.test_dataloader(), task, trained.device)
        metric = headline(task, scores)
        summary = {
            "stage": "retrain",
            "genotype": dict(genotype.choices),
            "metric": {**metric, "split": "test"},
            **{f"test_{key}": value for key, value in scores.items()},
            **cost_of(network, data),
            "train_seconds": trained.seconds,
            "skipped_batches": module.num_skipped_batches,
            "inherited": experiment.retrain.inherit,
            "seed": experiment.seed,
            "device": str(trained.device),
        }
        write_pages(folder, experiment, genotype, summary, module.num_batches_done)
        folder.finish(summary, genotype)
    return folder


def _folder(experiment: Experiment, genotype: Genotype, out: Path | None, name: str) -> RunFolder:
    """A new folder, or an unfinished one of the very same retraining."""
    if out is not None and (out / "config.yaml").exists():
        folder = RunFolder.open(out, "retrain")
        if folder.finished:
            raise UsageError(f"{folder.shown} holds a finished retraining; name another folder with --out")
        if folder.config.read_text() != experiment.yaml() or folder.read_genotype() != genotype:
            raise UsageError(
                f"{folder.shown} holds an unfinished retraining of other settings; name another with --out"
            )
        return folder

    def fill(new: RunFolder) -> None:
        genotype.save(new.genotype)
        write_atomic(new.config, experiment.yaml())

    return RunFolder.create(out, name, fill)


def _inherit(network: nn.Module, weights: dict[str, Any]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"--inherit: the retrained network has other sizes than the searched one: {error}") from None
