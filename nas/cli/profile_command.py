"""``nas profile``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import ThinParser, config_source
from nas.cli.printing import print_pairs
from nas.io.errors import UsageError

PARSER = ThinParser("profile", overrides=True)
PARSER.add_config()
PARSER.add_argument("--genotype", type=Path, metavar="FILE")
PARSER.add_trust()

_UNITS = {"macs": "MACs", "activations": "acts", "latency_ms": "ms"}


def run(options: argparse.Namespace, others: tuple[str, ...]) -> dict[str, Any]:
    """Profiles; returns everything."""
    if not options.config:
        raise UsageError("nas profile: --config FILE is needed")
    source = config_source(options, others)
    if options.genotype is not None:
        from nas.profile.architecture import profile_genotype

        return profile_genotype(options.genotype, source)
    from nas.profile.report import profile

    return profile(source)


def show(result: dict[str, Any]) -> None:
    """Tables of candidates and costs, the memory forecast, and whether targets can be met; of one architecture, its costs."""
    if "choices" in result:
        _show_architecture(result)
        return
    from rich.console import Console

    from nas.costs.limits import format_cost
    from nas.runs.targets import target_lines

    console = Console(highlight=False, width=max(100, Console().width))  # rows are of no use when they are cut
    costs = list(result["costs"])
    headers = [_UNITS.get(cost, cost) for cost in costs]
    rows = [
        [
            row["choice"],
            row["candidate"],
            "x".join(map(str, row["shape"][1:])) or "-",
            *[format_cost(row[c]) for c in costs],
        ]
        for row in result["candidates"]
    ]
    _table(
        console,
        "what each candidate adds, retrained network, one sample",
        ["choice", "candidate", "output", *headers],
        rows,
    )
    rows = [
        [_UNITS.get(cost, cost), *[format_cost(row[key]) for key in ("smallest", "mean", "std", "largest")]]
        for cost, row in result["costs"].items()
    ]
    _table(console, "cost of an architecture", ["cost", "smallest", "mean of 1,000 random", "std", "largest"], rows)
    memory = result["memory"]
    keys = ("weights", "gradients", "optimizer_states", "saved_tensors", "total")
    rows = [
        [mode.replace("_", ", "), *[_mb(memory[mode][k]) for k in keys]]
        for mode in ("soft", "sampled", "sampled_largest")
    ]
    title = f"memory of a step at batch size {memory['batch_size']} (MB)"
    _table(console, title, ["mode", "weights", "gradients", "optimizers", "saved tensors", "total"], rows)
    lines = [
        f"architectures: {result['num_architectures']:,} ({result['counting_rule']})",
        f"device: {result['device']}",
    ]
    fits = "fits" if memory["fits"] else f"does not fit; {memory['advice']}"
    lines.append(f"memory: {_mb(memory['device_bytes'])} MB on the device; this search ({memory['mode']}) {fits}")
    if result["targets"]:
        lines += [f"{name}: {text}" for name, text in target_lines(result["targets"]["limits"]).items()]
        if not result["targets"]["can_be_met"]:
            lines.append(f"targets: {result['targets']['why']}")
    console.print(*lines, sep="\n", markup=False, soft_wrap=True)


def _show_architecture(result: dict[str, Any]) -> None:
    from nas.runs.targets import target_lines

    lines = {f"{name}, one sample": value for name, value in result["costs"].items()}
    print_pairs({"device": result["device"], **lines, **target_lines(result["targets"])})


def _table(console: Any, title: str, headers: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for i, header in enumerate(headers):
        words = i == 0 or header in ("candidate", "output")
        table.add_column(header, justify="left" if words else "right", no_wrap=True, min_width=len(header))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _mb(value: float) -> str:
    return f"{value / 1e6:,.1f}"
