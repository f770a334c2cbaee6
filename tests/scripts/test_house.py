"""The checks of the layout see what they are to see."""

import ast
import sys
from pathlib import Path

import pytest


@pytest.fixture
def house(load_file, tmp_path, monkeypatch):
    """The script, on a tree of its own; it needs the standard library alone."""
    module = load_file("scripts/house.py")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for folder in ("nas", "search_spaces", "examples", "scripts", "tests"):
        (tmp_path / folder).mkdir()
    return module


def write(house, **files):
    for name, text in files.items():
        path = house.ROOT / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def graph(house):
    paths = house.sources("nas", "search_spaces")
    modules = {house.module_of(path) for path in paths}
    return {house.module_of(path): set(house.imported(path, modules)) for path in paths}


def test_arrows_that_point_up_and_circles(house):
    write(
        house,
        nas__tau="from nas.cli import main\n",
        nas__cli="from nas.paths import x\n",
        nas__paths="def f():\n    import nas.tau\n",
    )
    assert house.upward(graph(house)) == ["nas.tau imports nas.cli"]
    assert house.cycles(graph(house)) == [["nas.cli", "nas.paths", "nas.tau"]]
    write(house, nas__tau="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nas.cli import main\n")
    assert house.cycles(graph(house)) == [] == house.upward(graph(house))


def test_questions_for_kinds_words_and_exemptions(house):
    write(
        house,
        nas__derive__a="isinstance(x, (int, Gate))\nwith appearing(x):\n    import os  # noqa: F401\n",
        nas__supernet__b="isinstance(x, Gate)\n",
    )
    assert [line for path in house._outside() for line in house.asks_for_kinds(path)] == ["nas/derive/a.py:1 Gate"]
    assert house.private_words() == ["nas/derive/a.py:2 appearing"]
    assert house.exemptions() == ["nas/derive/a.py:3"]


def test_modules_without_tests(house, monkeypatch):
    monkeypatch.setattr(house, "TESTED_BY", {"nas/cli/*": "nas/cli/test_commands.py"})
    write(house, nas__a="", nas__b="", nas__cli__c="", tests__nas__test_a="")
    assert house.untested() == ["nas/b.py", "nas/cli/c.py"]
    write(house, tests__nas__cli__test_commands="")
    assert house.untested() == ["nas/b.py"]


def test_a_long_file_makes_the_exit_code_1(house, capsys):
    write(house, nas__cli='"""Room."""\n' + "x = 1\n" * 20)
    (house.ROOT / "tests" / "nas" / "cli").mkdir(parents=True)
    (house.ROOT / "tests" / "nas" / "test_cli.py").touch()
    assert house.main([]) == 0
    assert "Room." in capsys.readouterr().out
    write(house, nas__cli='"""Room."""\n' + "x = 1\n" * 300)
    assert house.main([]) == 1
    assert "nas/cli.py 301" in capsys.readouterr().out


def test_only_the_standard_library_is_imported(house):
    tree = ast.parse(Path(house.__spec__.origin).read_text())
    for node in ast.walk(tree):
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), names
