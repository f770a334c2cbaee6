"""Imports point down: a package imports ours from packages before it alone, so there is no circle either."""

import ast
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]

house = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "house.py")))
PACKAGES, package_of = house.PACKAGES, house.package_of


def sources():
    return [(path, house.module_of(path)) for path in house.sources("nas", "search_spaces")]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def check_imports(path, module):
    own = package_of(module)
    assert own is not None, f"{module} has no layer: add it to LAYERS"
    for name in imports(path):
        if name == "nas" or name.split(".")[0] not in ("nas", "search_spaces"):
            continue  # what `nas` itself exports is of layers 0 to 2
        target = package_of(name)
        assert target is not None and PACKAGES[target] <= PACKAGES[own], f"{module} imports {name}"
        assert not (module.startswith("nas") and name.split(".")[0] == "search_spaces"), f"{module} imports {name}"


def test_imports_point_down():
    for path, module in sources():
        if module != "nas":
            check_imports(path, module)


def test_the_check_itself_sees_an_arrow_that_points_up(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("from nas.cli import main\n")
    with pytest.raises(AssertionError, match=r"nas\.tau imports nas\.cli"):
        check_imports(path, "nas.tau")


def test_no_device_globals_and_no_bare_except():
    for path, _ in sources():
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


def test_tests_lie_where_what_they_test_lies():
    for folder in ("nas", "search_spaces"):
        for path in (ROOT / "tests" / folder).rglob("test_*.py"):
            assert (ROOT / path.relative_to(ROOT / "tests")).parent.is_dir(), f"{path}: no package of that path"


def test_scripts_and_examples_use_the_public_interface():
    for folder in ("scripts", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            inner = [name for name in imports(path) if name.startswith("nas.runs")]
            assert not inner, f"{path}: {inner}"
