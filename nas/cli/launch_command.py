"""``nas launch``."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser, config_source
from nas.cli.printing import choices_text
from nas.io.errors import UsageError, shown
from nas.runs.options import check_key

PARSER = ThinParser("launch", overrides=True)
PARSER.add_config()
PARSER.add_argument("--seeds", metavar="A-B")
PARSER.add_argument("--set", action="append", default=[], metavar="KEY=V,W")
PARSER.add_argument("--engine", choices=["local", "ray", "slurm"], default="local")
PARSER.add_argument("--job", action="append", default=[], metavar="KEY=V")
PARSER.add_argument("--address", metavar="HOST:PORT")
PARSER.add_argument("--asha", action="store_true")
PARSER.add_argument("--num-parallel", type=int, metavar="N")
PARSER.add_argument("--max-failures", type=int, default=3, metavar="N")
PARSER.add_argument("--retrain", action="store_true")
PARSER.add_argument("--baseline", type=int, default=0, metavar="N")
PARSER.add_argument("--out", type=Path, metavar="DIR")
PARSER.add_argument("--resume", type=Path, metavar="DIR")
PARSER.add_trust()


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Launches or goes on; returns the summary."""
    if (
        (options.num_parallel is not None and options.num_parallel < 1)
        or options.max_failures < 0
        or options.baseline < 0
    ):
        raise UsageError("nas launch: --num-parallel must be at least 1, --max-failures and --baseline at least 0")
    if options.resume is not None:
        if (
            options.config
            or options.seeds
            or options.set
            or options.out
            or options.retrain
            or options.baseline
            or others
        ):
            raise UsageError("nas launch: --resume takes what to do from its folder; leave out the rest")
    elif not (options.config and options.seeds):
        raise UsageError("nas launch: --config FILE and --seeds A-B, or --resume DIR, are needed")
    else:
        source, seeds, settings = (
            config_source(options, others),
            parse_seeds(options.seeds),
            parse_settings(options.set),
        )
    engine = _engine(options)
    from nas.cli.launch_progress import lines, live, quiet
    from nas.launch import launch, resume_launch

    progress = quiet if options.json else live if sys.stderr.isatty() else lines
    if options.resume is not None:
        folder, summary = resume_launch(options.resume, engine, tuple(options.trust_module), progress)
    else:
        folder, summary = launch(
            source,
            seeds,
            settings,
            engine,
            options.out,
            retrain=options.retrain,
            num_baseline=options.baseline,
            progress=progress,
        )
    result = {"launch": str(folder), **summary}
    if summary["failed"]:
        if not options.json:
            show(result)
        name, reason = next(iter(summary["failed"].items()))
        raise RuntimeError(
            f"{len(summary['failed'])} of {len(summary['trials'])} searches failed, for example {name}: {reason}; "
            f"go on with: nas launch --resume {folder}"
        )
    return result


def _engine(options: argparse.Namespace) -> Any:
    job = parse_job(options.job)
    if options.engine != "ray" and (options.address or options.asha):
        raise UsageError("nas launch: --address and --asha need --engine ray")
    if options.engine == "local":
        if job:
            raise UsageError("nas launch: --job needs --engine slurm or ray")
        from nas.launch.local import Local

        return Local(options.num_parallel or 1, options.max_failures)
    if options.engine == "slurm":
        if options.num_parallel is not None:
            raise UsageError("nas launch: --num-parallel is not for --engine slurm: SLURM decides how many jobs run")
        _need("submitit", "slurm")
        from nas.launch.slurm import Slurm

        return Slurm(options.max_failures, **job)
    for key, value in job.items():
        if key not in ("num_cpus", "num_gpus") or not isinstance(value, int):
            raise UsageError(f"--job: with --engine ray there are num_cpus=N and num_gpus=N, not {key}={value}")
    _need("ray", "ray")
    from nas.launch.ray_tune import RayTune

    return RayTune(options.num_parallel, options.max_failures, address=options.address, asha=options.asha, **job)


def _need(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"nas launch: --engine {extra} needs {package}: pip install 'gumbel-nas[{extra}]'")


def parse_job(words: list[str]) -> dict[str, Any]:
    """``KEY=V`` words: what a job gets; whole numbers are numbers.

    Raises:
        UsageError: One is not like that.
    """
    parameters: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key.isidentifier() and equals):
            raise UsageError(f"--job must be like timeout_min=240, got {word!r:.80}")
        parameters[key] = int(value) if value.isdecimal() else value
    return parameters


def parse_seeds(text: str) -> list[int]:
    """``0-9`` or ``0,3,5``.

    Raises:
        UsageError: It is neither.
    """
    try:
        first, dash, last = text.partition("-")
        found = list(range(int(first), int(last) + 1)) if dash else [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found:
        raise UsageError(f"--seeds must be like 0-9 or 0,3,5, got {text!r:.80}")
    return found


def parse_settings(words: list[str]) -> dict[str, list[str]]:
    """``KEY=V,W`` words: key -> values.

    Raises:
        UsageError: One is not like that, or a key is there twice.
    """
    settings: dict[str, list[str]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not (key and equals and all(split(values))) or key == "seed_everything":
            raise UsageError(f"--set must be like model.tau=nas.tau.Linear,nas.tau.Cosine, got {word!r:.80}")
        check_key(key, "--set")
        if key in settings:
            raise UsageError(f"--set: {key} is given twice")
        settings[key] = split(values)
    return settings


def split(text: str) -> list[str]:
    """The parts between commas, but for commas inside brackets, braces and quotes: ``[1,2],[1,4]`` are two."""
    parts, closing = [""], ""
    for sign in text:
        if sign == "," and not closing:
            parts.append("")
            continue
        parts[-1] += sign
        if closing and sign == closing[-1]:
            closing = closing[:-1]
        elif sign in _PAIRS and closing[-1:] not in ("'", '"'):
            closing += _PAIRS[sign]
    return [part.strip() for part in parts]


_PAIRS = {"[": "]", "{": "}", "(": ")", '"': '"', "'": "'"}


def show(result: dict[str, Any]) -> None:
    """A row for every setting, and random search below."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False, markup=False)
    table = Table(Column("settings", overflow="fold"), "searches", "judged on", "mean ± std", "best", "seconds")
    for row in result["settings"]:
        said = shown(choices_text(row["settings"])) or "the configuration's"
        if "mean" not in row:
            table.add_row(said, f"0 of {row['num']}", "-", "-", "-", "-")
            continue
        spread = "" if row["std"] is None else f" ± {row['std']:.4f}"
        best = row["best"]
        table.add_row(
            said,
            f"{row['num_finished']} of {row['num']}",
            row["part"],
            f"{row['mean']:.4f}{spread}",
            f"{best.get(row['part'], best['arch']):.4f}, seed {best['seed']}",
            f"{row['search_seconds']:.1f}",
        )
    if result["baseline"] is not None:
        compared = result["baseline"]
        spread = "" if compared["test"]["std"] is None else f" ± {compared['test']['std']:.4f}"
        table.add_row(
            f"random search, {compared['num']} architectures",
            "",
            "test",
            f"{compared['test']['mean']:.4f}{spread}",
            f"{compared['best']['test']:.4f}",
            f"{compared['search_seconds']:.1f}",
        )
    console.print(table)
    console.print(f"folder: {result['launch']}", markup=False, soft_wrap=True)
