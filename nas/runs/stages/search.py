"""Starts and resumes searches."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch

from nas.bilevel import ScoreFunction
from nas.callbacks import Dashboard, Guards
from nas.callbacks.distribution import DistributionHistory
from nas.data import SearchDataModule
from nas.data.loader import ResumableLoader
from nas.derive import Argmax
from nas.derive.check import check_derived
from nas.evaluation import as_args
from nas.io.errors import UsageError, as_usage_error
from nas.io.files import write_atomic
from nas.io.rng import keyed_generator, untouched_rng
from nas.runs.build import build_search, check_retraining, try_once
from nas.runs.config import Experiment, load_experiment
from nas.runs.decided import write_decided
from nas.runs.extras import add_extras
from nas.runs.first_step import after_a_step
from nas.runs.folder import SCORES, RunFolder
from nas.runs.judging import PathJudge, SearchJudge, searched_of
from nas.runs.kept import keep_network
from nas.runs.options import ConfigSource, trust_words
from nas.runs.pages import write_drawings, write_pages
from nas.runs.processes import Processes
from nas.runs.results import derive_and_score
from nas.runs.targets import infeasibility, limits_of, load_tables, penalise, save_tables, targets_tables
from nas.runs.trainer import check_batches, make_trainer, train
from nas.supernet.building import architecture
from nas.supernet.structure import first_choices, random_choices
from nas.supernet.supernet import Supernet
from nas.training.search_module import SearchModule

NUM_TRIED = 3


def search(source: ConfigSource, out: Path | None) -> RunFolder:
    """Searches in a new run folder, `out` or ``runs/<config name>/<n>``.

    Raises:
        UsageError: An error found before the first file is written.
    """
    experiment = load_experiment(source)
    retraining = experiment.for_retrain()
    trainer = add_extras(make_trainer(experiment.trainer), experiment)
    made: list[tuple[SearchModule, ResumableLoader]] = []

    def make() -> RunFolder:
        module, loader = _prepare(experiment, trainer)
        made.append((module, loader))
        device = trainer.strategy.root_device
        check_choices(module, retraining, experiment.data)
        tables = targets_tables(retraining, device)
        penalise(module, experiment.targets, tables)
        limits = limits_of(experiment.targets, tables)
        if reason := infeasibility(module, limits):
            raise UsageError(f"model.cost: {reason}")
        searched = searched_of(module, experiment.data, device, limits)
        check_retraining(retraining, Argmax().genotype(searched))
        with as_usage_error("model.derive"):
            experiment.derive.check(searched)

        def fill(new: RunFolder) -> None:
            save_tables(tables, new.path)
            write_atomic(new.config, experiment.yaml)

        return RunFolder.create(out, source.name, fill)

    folder = Processes.of(trainer).folder(out, make)
    module, loader = made[0] if made else _begun(experiment, trainer, folder)
    return _run(experiment, retraining, trainer, module, loader, folder)


def resume(path: Path, trusted: tuple[str, ...], *, force: bool = False) -> RunFolder:
    """Resumes a stopped search exactly; does nothing to a finished search.

    With `force`, resumes even if configuration, versions or the user's modules have changed.

    Raises:
        UsageError: The folder is not the folder of a search, its configuration does not load, or settings have changed.
        ValueError: No checkpoint is intact.
    """
    folder = RunFolder.open(path, "search")
    if folder.finished:
        folder.check_unchanged()
        return folder
    source = folder.source(trusted)
    experiment = load_experiment(source)
    retraining = experiment.for_retrain()
    trainer = add_extras(make_trainer(experiment.trainer), experiment)
    module, loader = _begun(experiment, trainer, folder)
    return _run(experiment, retraining, trainer, module, loader, folder, force)


def check_choices(module: SearchModule, retraining: Experiment, data: SearchDataModule) -> None:
    """Tries the steps after a search; raises UsageError if a step does not work.

    The search network and the retrained network must have equal choices. After a training step, the output of a derived network must equal
    the output of the supernet with one-hot op weights.
    """
    inputs, target = data.example()
    supernet = module.supernet
    with as_usage_error(), untouched_rng(), torch.no_grad():
        retrained = Supernet(retraining.model["space"].network("retrain")).choices
        if retrained != supernet.choices:
            name = next(n for n in [*supernet.choices, *retrained] if supernet.choices.get(n) != retrained.get(n))
            raise ValueError(
                f'network("retrain") has other choices than network("search"): {name!r} has the labels '
                f"{retrained.get(name, 'none')} instead of {supernet.choices.get(name, 'none')}"
            )
        trained = after_a_step(module, inputs, target)
        if not module.space.inherits_weights:
            return
        for seed in range(NUM_TRIED):
            choices = random_choices(supernet.network, seed)
            check_derived(trained, choices, as_args(inputs, supernet))
            with architecture(choices):
                retraining.model["space"].network("retrain")


def _prepare(experiment: Experiment, trainer: pl.Trainer) -> tuple[SearchModule, ResumableLoader]:
    module = build_search(experiment)
    epochs = experiment.trainer.max_epochs
    if module.supernet.choices and module.warmup_epochs >= epochs and experiment.derive.needs_alpha:
        raise UsageError(
            f"model.warmup_epochs is {module.warmup_epochs} and trainer.max_epochs is {epochs}, so alpha would never be trained"
        )
    with as_usage_error():
        experiment.data.prepare_data()
        for progress in (0.0, 0.5, 1.0):
            sample = module.supernet.sample(
                module.relaxation, module.tau(progress), generator=keyed_generator(0, "try")
            )
        loader = experiment.data.search_loader(experiment.seed, rank=trainer.global_rank, world_size=trainer.world_size)
        check_batches(experiment.trainer, loader)
        targets = experiment.data.train_targets()
        module.metric_names = try_once(module.supernet, experiment.data, module.task, targets, op_weights=sample)
    if isinstance(module.bilevel, ScoreFunction):
        judge = PathJudge(module, experiment.data, module.bilevel)
        with as_usage_error("model.bilevel"):
            judge.check(first_choices(module.supernet.network))
        module.scores.judge = judge
    return module, loader


def _begun(experiment: Experiment, trainer: pl.Trainer, folder: RunFolder) -> tuple[SearchModule, ResumableLoader]:
    """The module and loader of an existing run."""
    module, loader = _prepare(experiment, trainer)
    penalise(module, experiment.targets, load_tables(experiment.targets, folder.path))
    return module, loader


def _run(
    experiment: Experiment,
    retraining: Experiment,
    trainer: pl.Trainer,
    module: SearchModule,
    loader: ResumableLoader,
    folder: RunFolder,
    force: bool = False,
) -> RunFolder:
    again = f"nas search --resume {folder.quoted}{trust_words(experiment.trusted)}"
    judge = SearchJudge(experiment.data)
    guards, history = Guards(experiment.guards, judge.score), DistributionHistory()
    num_images = experiment.trainer.num_images
    dashboard = Dashboard(folder.metrics_csv, num_images=num_images, gap=judge.gap, moments=history.moments)
    record = experiment.record(force=force)
    with Processes.of(trainer).writing(folder):
        if folder.finished:  # another process finished the run before this process got the lock
            return folder
        trained = train(
            trainer, experiment.trainer, module, loader, folder, "search", again, [guards, history, dashboard], record
        )
        module.use_average()
        seen = [entry["choices"] for entry in guards.seen]
        tables = load_tables(experiment.targets, folder.path)
        derived = derive_and_score(
            experiment, retraining, module.float(), experiment.derive, folder, tables, trained.device, seen
        )
        stability = write_decided(
            folder.path, module, history.moments, retraining, derived.genotype, derived.summary["runner_up"]
        )
        summary = {
            "stage": "search",
            **derived.summary,
            "stability": stability,
            "search_seconds": trained.seconds + derived.seconds,
            "derive_seconds": derived.seconds,
            "num_architectures": module.supernet.num_architectures,
            "collapsed_at": guards.collapsed_at,
            "stopped_at": guards.stopped_at,
            "skipped_batches": module.num_skipped_batches,
            "seed": experiment.seed,
            "device": str(trained.device),
            "processes": trainer.world_size,
        }
        write_pages(folder, experiment.values, derived.genotype, summary, module.num_batches_done)
        write_drawings(folder, experiment.model["space"], derived.genotype)
        if derived.kept:
            SCORES.save(folder.scores, derived.kept)
        if derived.network is not None:
            keep_network(folder, derived.network, derived.genotype.choices)
        folder.finish(summary, derived.genotype)
    return folder
