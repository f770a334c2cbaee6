"""Forecast the costs of a configuration before its search.

The command prints the costs that each candidate op adds, the number of
architectures, the range of costs, the memory of a training step, and whether
the targets of model.cost can be met. It measures latencies on this device and
keeps them for searches.
"""

from __future__ import annotations

import argparse
from typing import Any

from nas.cli.parsing import CONFIG, GENOTYPE, CommandParser, config_source
from nas.cli.printing import print_pairs

PARSER = CommandParser("profile", __doc__, overrides=True)
PARSER.add_argument("--config", required=True, **CONFIG)
PARSER.add_argument("--genotype", **{**GENOTYPE, "help": "print the costs of this architecture alone"})

_UNITS = {"macs": "MACs", "activations": "acts", "latency_ms": "ms"}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Profiles; returns the figures."""
    source = config_source(options)
    if options.genotype is not None:
        from nas.profile.report import profile_genotype

        return profile_genotype(options.genotype, source)
    from nas.profile.report import profile

    return profile(source)


def show(result: dict[str, Any]) -> None:
    """Prints tables of candidates, costs and memory, and the targets; for one architecture, only its costs."""
    if "choices" in result:
        _show_architecture(result)
        return
    from nas.costs.limits import format_cost
    from nas.runs.targets import target_lines

    units = {cost: _UNITS.get(cost, cost) for cost in result["costs"]}
    rows = [
        [
            row["choice"],
            row["candidate"],
            "x".join(map(str, row["shape"][1:])) or "-",
            *[format_cost(row[cost]) for cost in units],
        ]
        for row in result["candidates"]
    ]
    title = "costs that each candidate adds, retrained network, one sample"
    _print_table(title, ["choice", "candidate", "output", *units.values()], rows)
    spread = ("smallest", "mean", "std", "largest")
    rows = [[units[cost], *[format_cost(row[key]) for key in spread]] for cost, row in result["costs"].items()]
    _print_table("cost of an architecture", ["cost", "smallest", "mean of 1,000 random", "std", "largest"], rows)
    memory = result["memory"]
    keys = ("weights", "gradients", "optimizer_states", "saved_tensors", "total")
    modes = ("soft", "sampled", "sampled_largest")
    rows = [[mode.replace("_", ", "), *[_megabytes(memory[mode][key]) for key in keys]] for mode in modes]
    title = f"memory of a step at batch size {memory['batch_size']} (MB)"
    _print_table(title, ["mode", "weights", "gradients", "optimizers", "saved tensors", "total"], rows)
    fits = "fits" if memory["fits"] else f"does not fit; {memory['advice']}"
    lines = {
        "architectures": f"{result['num_architectures']:,} ({result['counting_rule']})",
        "device": result["device"],
        "memory": f"{_megabytes(memory['device_bytes'])} MB on the device; this search ({memory['mode']}) {fits}",
    }
    if targets := result["targets"]:
        lines |= target_lines(targets["limits"])
        if not targets["can_be_met"]:
            lines["targets"] = targets["why"]
    print_pairs(lines)


def _show_architecture(result: dict[str, Any]) -> None:
    from nas.runs.targets import target_lines

    lines = {f"{name}, one sample": value for name, value in result["costs"].items()}
    print_pairs({"device": result["device"], **lines, **target_lines(result["targets"])})


def _print_table(title: str, headers: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for i, header in enumerate(headers):
        words = i == 0 or header in ("candidate", "output")
        table.add_column(header, justify="left" if words else "right", no_wrap=True, min_width=len(header))
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=max(100, Console().width)).print(table)  # a narrower table would cut its cells


def _megabytes(value: float) -> str:
    return f"{value / 1e6:,.1f}"
