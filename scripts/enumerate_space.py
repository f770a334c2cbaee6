r"""A table of all architectures of a small space, each trained alone, several times.

Command: python scripts/enumerate_space.py --config configs/dilation_digits.yaml --seeds 3 --num-workers 2 \
    --out search_spaces/tables/dilation_digits.json

The retrain section of the configuration describes the training. Each architecture is trained twice for each seed: on three quarters of the
training set, with a score on the last quarter (which quarter depends on the seed), and on the whole training set, with a score on the test
set. `nas search` finds a table in the folder `tables` beside the module of its space, and prints the rank of its architecture. A file
beside the table keeps every finished training, so the same command continues after a stop.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import nas
from nas.benchmark import PARTS, Part, Table, training_of
from nas.genotype import Genotype, key_of
from nas.io.errors import UsageError
from nas.io.files import write_atomic
from nas.io.versions import versions
from nas.supernet.structure import num_architectures


class Job(NamedTuple):
    """One training."""

    choices: str
    part: Part
    seed: int


def jobs(architectures: Sequence[Mapping[str, Any]], seeds: int, parts: Sequence[Part]) -> Iterator[Job]:
    """All trainings, seed by seed, so that what is there of an unfinished table covers all architectures."""
    for seed in range(seeds):
        for part in parts:
            for choices in architectures:
                yield Job(key_of(choices), part, seed)


_EXPERIMENT: list[Any] = []


def start_worker(source: nas.ConfigSource) -> None:
    """Loads the configuration once a process."""
    _EXPERIMENT[:] = [nas.experiment(source, stage="retrain")]


def run_job(job: Job) -> tuple[Job, float, float]:
    """One training: job, score, seconds."""
    score = nas.standalone_score(_EXPERIMENT[0], Genotype(json.loads(job.choices)), job.part, job.seed)
    return job, score.value, score.seconds


@contextmanager
def results(
    wanted: Sequence[Job], source: nas.ConfigSource, num_workers: int
) -> Iterator[Iterator[tuple[Job, float, float]]]:
    """What :func:`run_job` says of each, in order, in this process or in several."""
    if num_workers == 1:
        start_worker(source)
        yield map(run_job, wanted)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, initializer=start_worker, initargs=(source,)) as pool:
        yield pool.map(run_job, wanted)


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def finished(path: Path) -> dict[Job, tuple[float, float]]:
    """Trainings that an earlier command did; a last line that was cut off is done again."""
    done = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            choices, part, seed, value, seconds = json.loads(line)
        except ValueError:
            continue  # cut off
        done[Job(choices, part, seed)] = (value, seconds)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each architecture and part")
    parser.add_argument("--parts", default=",".join(PARTS), help="validation, test or both")
    parser.add_argument("--num-random", type=int, help="only this many architectures, drawn at random")
    parser.add_argument("--num-workers", type=int, default=1, help="processes")
    parser.add_argument("--max-architectures", type=int, default=10_000)
    parser.add_argument("--trust-module", action="append", default=[])
    parser.add_argument("--out", type=Path, required=True)
    options, overrides = parser.parse_known_args(argv)
    source = nas.ConfigSource((options.config,), tuple(overrides), tuple(options.trust_module))
    parts = [part for part in PARTS if part in options.parts.split(",")]
    if min(options.seeds, options.num_workers, options.num_random or 1) < 1 or not parts:
        parser.error("--seeds, --num-workers and --num-random must be at least 1, and --parts name validation or test")
    experiment = nas.experiment(source, stage="retrain")
    number = num_architectures(experiment.model["space"].network("search"))
    if options.num_random is None and number > options.max_architectures:
        raise UsageError(f"{options.config}: {number} architectures are more than --max-architectures")
    choices = nas.sample_architectures(experiment, options.num_random or number)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    progress = options.out.with_suffix(".jsonl")
    done = finished(progress)
    wanted = list(dict.fromkeys(jobs(choices, options.seeds, parts)))
    missing = [job for job in wanted if job not in done]
    write_atomic(progress, "".join(json.dumps([*job, *said]) + "\n" for job, said in done.items()))
    start = time.monotonic()
    with open(progress, "a") as file, results(missing, source, options.num_workers) as trained:
        for number, (job, value, seconds) in enumerate(trained, 1):
            done[job] = (value, seconds)
            file.write(json.dumps([*job, value, seconds]) + "\n")
            file.flush()
            left = (time.monotonic() - start) / number * (len(missing) - number)
            print(
                f"{number}/{len(missing)}  {job.part} seed {job.seed}  {value:.4f}  {left / 60:.0f} min left",
                flush=True,
            )
    metric = next(iter(experiment.model["task"].metrics()))
    table = Table(training_of(experiment.applied), metric)
    for job in wanted:
        table.add(json.loads(job.choices), job.part, job.seed, done[job][0])
    table.seconds = statistics.fmean(done[job][1] for job in wanted)
    command = f"python scripts/enumerate_space.py --config {options.config} --seeds {options.seeds}"
    table.provenance = {
        "command": " ".join([command, *overrides]),
        "date": date.today().isoformat(),
        "hardware": f"{processor()}, {options.num_workers} processes",
        "versions": versions(),
    }
    table.save(options.out)
    for part in parts:
        column = table.column(part)
        best = max(column, key=column.__getitem__)
        print(f"{part}: mean {statistics.fmean(column.values()):.4f}, best {column[best]:.4f} {best}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
