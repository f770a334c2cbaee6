"""Checks the layout of the code: sizes of files and packages, directions of imports, uses of kinds of choices, tests, words.

Command: ``python scripts/house.py [--seed N]``; the exit code is 1 if a value is over its limit. Only the standard library is used.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LAYERS = (
    ("nas.io", "nas.ops", "nas.genotype", "nas.benchmark", "nas.tau"),
    ("nas.relaxations", "nas.alpha", "nas.paths"),
    ("nas.supernet", "nas.conversion", "nas.dropout", "nas.layers", "search_spaces"),
    (
        "nas.costs",
        "nas.tasks",
        "nas.data",
        "nas.bilevel",
        "nas.regularizers",
        "nas.evaluation",
        "nas.derive",
        "nas.drawing",
    ),
    ("nas.training", "nas.callbacks", "nas.testing"),
    (
        "nas.export",
        "nas.runs",
        "nas.searcher",
        "nas.lightning",
        "nas.profile",
        "nas.launch",
        "nas.report",
        "nas.compression",
    ),
    ("nas.cli", "nas.__main__"),
)
"""Layer 0 first; within a layer, a package may import those before it."""
ORDER = [package for packages in LAYERS for package in packages]
PACKAGES = {package: number for number, package in enumerate(ORDER)}

MAX_TOP_LEVEL = 12
MAX_FILE_LINES = 300
MAX_PACKAGE_LINES = {"nas": 18_000, "nas/export/python": 1_200}
MAX_EXEMPTIONS = 7
KINDS = {"Gate", "InputChoice", "WidthRow", "MixedOp", "Repeat"}
"""Classes of choices, which speak for themselves outside of their package."""
TESTED_BY = {
    "nas/__init__.py nas/__main__.py nas/cli/*": "nas/cli/test_commands.py",  # every command is called as a person calls it
    "nas/alpha/*": "nas/alpha/test_joint.py",  # all kinds by the same rules
    "nas/bilevel/*": "nas/bilevel/test_bilevel.py",
    "nas/cli/launch_*": "nas/launch/test_launch.py",
    "nas/callbacks/*": "nas/runs/test_resume.py",  # their state is compared with that of an undisturbed run
    "nas/costs/parts.py nas/costs/table.py nas/costs/limits.py nas/costs/program.py nas/costs/module_key.py": "nas/costs/test_tabulate.py",
    "nas/compression/*": "nas/compression/test_compress.py",
    "nas/conversion/* nas/supernet/cuts.py nas/costs/cut_terms.py": "nas/conversion/test_convert.py",
    "nas/costs/latency.py": "nas/runs/test_targets.py",
    "nas/data/*": "nas/data/test_base.py",
    "nas/derive/*": "nas/derive/test_strategies.py",  # all strategies by the same rules
    "nas/drawing/*": "nas/drawing/test_architecture.py",
    "nas/evaluation.py": "nas/runs/test_resume.py",
    "nas/export/python/*": "nas/export/python/test_write.py",  # what is written is compared with the network
    "nas/export/*": "nas/export/test_write.py",
    "nas/io/*": "nas/io/test_files.py",
    "nas/launch/*": "nas/launch/test_launch.py",
    "nas/layers/base.py": "nas/layers/test_soft_kmeans.py",
    "nas/training/lr_schedules.py": "nas/training/test_train_module.py",
    "nas/lightning/*": "nas/lightning/test_search_callback.py",
    "nas/ops/*": "nas/ops/test_mix.py",
    "nas/profile/*": "nas/profile/test_report.py",
    "nas/relaxations/*": "nas/relaxations/test_gradients.py",  # all relaxations by the same rules
    "nas/report/*": "nas/report/test_write.py",
    "nas/runs/own/*": "nas/test_searcher.py",
    "nas/runs/* nas/runs/stages/*": "nas/runs/test_resume.py",  # whole runs, stage by stage
    "nas/supernet/*": "nas/supernet/test_supernet.py",
    "nas/tasks/*": "nas/tasks/test_classification.py",
    "nas/training/*": "nas/training/test_search_module.py",
    "search_spaces/*": "search_spaces/test_darts.py",
}
"""Modules without a test file of their own -> the tests that run them."""
PRIVATE_WORDS = """
    scraps told Told Watch unsealed sealed_json refusals Helped losses_of_parts with_inputs appearing replacing meters
    unweighted stacked literals Literals dearest resting
""".split()
"""Names that stand for a standard term of the field, which is used instead."""


def sources(*folders: str) -> list[Path]:
    """Python files below some folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def shown(path: Path) -> str:
    """A path as it is seen from the root of the project."""
    return str(path.relative_to(ROOT))


def num_lines(path: Path) -> int:
    """Lines of a file."""
    return len(path.read_text().splitlines())


def module_of(path: Path) -> str:
    """The dotted path of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, modules: set[str]) -> Iterator[str]:
    """Modules of ours that a file imports at its top or inside of functions, but not for type checks alone."""
    for node in _statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else str(node.module)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _statements(child)


def package_of(module: str) -> str | None:
    """The entry of `ORDER` that a module belongs to; None where there is none."""
    return next((package for package in ORDER if f"{module}.".startswith(f"{package}.")), None)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports that do not point down, by the order of packages."""
    rank = {name: PACKAGES[package] for name in graph if (package := package_of(name)) is not None}
    return [f"{a} imports {b}" for a in sorted(rank) for b in sorted(graph[a]) if rank.get(b, -1) > rank[a]]


def asks_for_kinds(path: Path) -> list[str]:
    """Calls of isinstance with a kind of choice."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            if names & KINDS:
                found.append(f"{shown(path)}:{node.lineno} {', '.join(sorted(names & KINDS))}")
    return found


def untested() -> list[str]:
    """Product modules with neither a test file of their name nor one that is said to run them."""
    missing = []
    for path in sources("nas", "search_spaces"):
        own = ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.stem}.py"
        others = [
            test for patterns, test in TESTED_BY.items() if any(map(path.relative_to(ROOT).match, patterns.split()))
        ]
        if (
            path.name != "__init__.py"
            and not own.exists()
            and not any((ROOT / "tests" / test).exists() for test in others)
        ):
            missing.append(shown(path))
    return missing


def private_words() -> list[str]:
    """Where names of ours are used that have a standard term."""
    pattern = re.compile(rf"\b(?:{'|'.join(PRIVATE_WORDS)})\b")
    return [
        f"{shown(path)}:{number} {found[0]}"
        for path in sources("nas", "search_spaces")
        if path.name != "moved.py"  # where old names stand beside new ones
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (found := pattern.findall(line))
    ]


def exemptions() -> list[str]:
    """Lines that are exempt from a rule of the linter."""
    return [
        f"{shown(path)}:{number}"
        for path in sources("nas", "search_spaces")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "noqa" in line or "fmt: off" in line
    ]


def random_lines(seed: int, num: int = 10) -> Iterator[str]:
    """Lines of `nas` drawn at random, each with the first line of its file's docstring."""
    lines = [
        (path, number, line)
        for path in sources("nas")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip() and not re.match(r"\s*(from|import)\b", line)
    ]
    for path, number, line in random.Random(seed).sample(lines, num):
        room = (ast.get_docstring(ast.parse(path.read_text())) or "no docstring").splitlines()[0]
        yield f"{shown(path)}:{number}  {line.strip()[:60]}\n    {room}"


def main(words: Sequence[str] | None = None) -> int:
    """Prints each figure beside its limit, and what breaks it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the ten lines that are drawn")
    options = parser.parse_args(words)
    files = sources("nas", "search_spaces", "examples", "scripts")
    modules = {module_of(path) for path in sources("nas", "search_spaces")}
    graph = {module_of(path): set(imported(path, modules)) for path in sources("nas", "search_spaces")}
    top = [shown(path) for path in sorted((ROOT / "nas").glob("*.py"))]
    wide = [path for path in files if num_lines(path) > MAX_FILE_LINES]
    checks: list[tuple[str, int, int, list[str]]] = [
        ("modules directly in nas/", len(top), MAX_TOP_LEVEL, top),
        ("files over 300 lines", len(wide), 0, [f"{shown(path)} {num_lines(path)}" for path in wide]),
    ]
    for folder, limit in MAX_PACKAGE_LINES.items():
        checks.append((f"lines of {folder}/", sum(map(num_lines, sources(folder))), limit, []))
    for title, found in (
        ("upward imports", upward(graph)),
        ("import cycles", [" ".join(group) for group in cycles(graph)]),
        ("isinstance on kinds of choices outside nas/supernet/", _flat(map(asks_for_kinds, _outside()))),
        ("modules with no test file that runs them", untested()),
        ("uses of private words", private_words()),
    ):
        checks.append((title, len(found), 0, found))
    checks.append(("lint exemptions", len(exempt := exemptions()), MAX_EXEMPTIONS, exempt))
    for title, value, limit, found in checks:
        print(f"{'ok  ' if value <= limit else 'OVER'} {title}: {value:,} (at most {limit:,})")
        if value > limit:
            print("".join(f"       {line}\n" for line in found), end="")
    print("ten lines:", *random_lines(options.seed), sep="\n")
    return int(any(value > limit for _, value, limit, _ in checks))


def _outside() -> list[Path]:
    return [path for path in sources("nas") if "supernet" not in path.relative_to(ROOT / "nas").parts[:1]]


def _flat(lists: Iterator[list[str]] | map[list[str]]) -> list[str]:
    return [item for items in lists for item in items]


if __name__ == "__main__":
    sys.exit(main())
