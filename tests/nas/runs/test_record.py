import sys
from importlib import import_module

from nas.runs.record import RunProvenance


def test_an_edited_submodule_of_a_trusted_package_is_noticed(tmp_path, monkeypatch):
    package = tmp_path / "own_record"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "parts.py", "inner/__init__.py", "inner/deep.py", "idle.py"):
        (package / name).write_text("NUMBER = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_record", "own_record.parts", "own_record.inner.deep"):
        import_module(name)
    before = RunProvenance("{}", ["own_record"]).present["sources"]
    (package / "idle.py").write_text("NUMBER = 2\n")  # nobody has imported it
    assert RunProvenance("{}", ["own_record"]).present["sources"] == before
    for name in ("parts.py", "inner/deep.py", "__init__.py"):
        (package / name).write_text("NUMBER = 3\n")
        after = RunProvenance("{}", ["own_record"]).present["sources"]
        assert after != before
        before = after
    for name in [key for key in sys.modules if key.startswith("own_record")]:
        monkeypatch.delitem(sys.modules, name)
