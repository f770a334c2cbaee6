"""Imports point down: a module may import ours of its own layer or of a lower one."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# longest prefix wins
LAYERS = {
    "nas.errors": 0,
    "nas.files": 0,
    "nas.folder_lock": 0,
    "nas.parent": 0,
    "nas.distributed": 0,
    "nas.csv_file": 0,
    "nas.markdown": 0,
    "nas.rng": 0,
    "nas.ops": 0,
    "nas.genotype": 0,
    "nas.tau": 0,
    "nas.module_copy": 0,
    "nas.relaxations": 1,
    "nas.costs": 1,
    "nas.candidates": 1,
    "nas.module_key": 1,
    "nas.latency": 1,
    "nas.cost_table": 2,
    "nas.cost_model": 2,
    "nas.limits": 3,
    "nas.cost_penalty": 3,
    "nas.estimators": 2,
    "nas.choice_module": 2,
    "nas.folding": 1,
    "nas.merging": 1,
    "nas.mixture": 1,
    "nas.mixed_op": 2,
    "nas.repeats": 2,
    "nas.input_choice": 2,
    "nas.widths": 2,
    "nas.building": 2,
    "nas.gates": 2,
    "nas.concrete_dropout": 2,
    "nas.choices": 2,
    "nas.structure": 2,
    "nas.supernet": 2,
    "nas.search_space": 2,
    "search_spaces": 3,
    "nas.tasks": 3,
    "nas.data": 3,
    "nas.bilevel": 3,
    "nas.regularizers": 3,
    "nas.evaluation": 3,
    "nas.lr_schedules": 3,
    "nas.replanning": 3,
    "nas.derive": 3,
    "nas.paths": 1,
    "nas.drawing": 3,
    "nas.arch_statistics": 3,
    "nas.report": 5,
    "nas.testing": 4,
    "nas.checkpoint_io": 4,
    "nas.train_module": 4,
    "nas.search_module": 4,
    "nas.retrain_module": 4,
    "nas.callbacks": 4,
    "nas.runs": 5,
    "nas.launch": 5,
    "nas.profile": 5,
    "nas.export": 5,
    "nas.cli": 6,
    "nas.__main__": 6,
}


def layer(module):
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in LAYERS:
            return LAYERS[".".join(parts[:end])]
    return None


def sources():
    for folder in ("nas", "search_spaces"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize(("path", "module"), [pytest.param(p, m, id=m) for p, m in sources() if m != "nas"])
def test_imports_point_down(path, module):
    assert layer(module) is not None, f"{module} has no layer: add it to LAYERS"
    for name in imports(path):
        if name == "nas" and module.startswith("search_spaces"):
            continue  # the public names of layers 0-2
        if name.split(".")[0] == "nas":
            target = layer(name)
            assert name == "nas" or (target is not None and target <= layer(module)), f"{module} imports {name}"
        assert not (module.startswith("nas") and name.split(".")[0] == "search_spaces"), f"{module} imports {name}"


def test_the_check_itself_sees_an_arrow_that_points_up(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("from nas.cli import main\n")
    with pytest.raises(AssertionError, match=r"nas\.tau imports nas\.cli"):
        test_imports_point_down(path, "nas.tau")


@pytest.mark.parametrize("path", [p for p, _ in sources()], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_device_globals_and_no_bare_except(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path}: bare except"
        called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
        assert called != "cuda", f"{path}: .cuda()"


def test_lazy_names_do_not_import_torch():
    code = (
        "import sys, nas, nas.cli; assert 'torch' not in sys.modules; nas.Genotype; assert 'torch' not in sys.modules"
    )
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True)
