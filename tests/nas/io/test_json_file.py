import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.io.errors import UsageError
from nas.io.json_file import Document, read_json, write_json


def test_json_comes_back_and_what_is_none_is_refused_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    write_json(path, {"a": [1, None], "b": float("nan"), "c": {"d": float("inf")}})
    assert read_json(path, "gone") == {"a": [1, None], "b": None, "c": {"d": None}}
    for text in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        path.write_bytes(text)
        with pytest.raises(UsageError, match=r"f\.json: (damaged|not UTF-8 text)"):
            read_json(path, "gone")
    with pytest.raises(UsageError, match="directory"):
        read_json(tmp_path, "gone")
    path.write_text("{}" + " " * 100)
    monkeypatch.setattr("nas.io.reading.MAX_JSON_BYTES", 100)
    with pytest.raises(UsageError, match="larger than 100 bytes"):
        read_json(path, "gone")
    path.unlink()
    with pytest.raises(UsageError, match="gone"):
        read_json(path, "gone")


def test_what_was_edited_or_damaged_is_noticed_and_what_was_laid_out_anew_is_not(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"a": [1, 2.5, float("nan")], "b": {"c": "d"}})
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, sort_keys=True))
    assert read_json(path, "gone") == {"a": [1, 2.5, None], "b": {"c": "d"}}
    content["a"][0] = 3
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"f.json: damaged or edited .*remove its key 'checksum'"):
        read_json(path, "gone")
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert read_json(path, "gone")["a"] == [3, 2.5, None]


def test_every_bit_flip_of_a_json_file_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "f.json"
    write_json(path, {"a": [1, 2.5e-07], "name": "x", "b": {"c": None}})
    whole, same = path.read_bytes(), read_json(path, "gone")
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            found = read_json(path, "gone")
        except UsageError:
            continue
        # a flip in the key "checksum" itself, or 2.5e-07 written 2.5E-07
        assert {key: value for key, value in found.items() if key in same} == same


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("{" + ", ".join(f'"{i}": 0' for i in range(100_001)) + "}", "more than 100000 keys"),
    ],
)
def test_json_that_python_would_take(tmp_path, text, message):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(UsageError, match=f"f.json: damaged, not valid JSON: .*{message}"):
        read_json(tmp_path / "f.json", "gone")


@pytest.mark.parametrize("checksum", [True, False])
def test_a_document_is_read_back_and_another_one_is_refused(tmp_path, checksum):
    path, kind = tmp_path / "f.json", Document("a list", "x/list", checksum)
    kind.save(path, {"a": 1})
    written = json.loads(path.read_text())
    assert written.pop("checksum", None) is not None if checksum else True
    assert written == {"format": "x/list", "version": 1, "a": 1}
    assert kind.load(path) == {"a": 1}
    with pytest.raises(UsageError, match=r'f\.json: not a row \("format" must be "x/row"'):
        Document("a row", "x/row", checksum).load(path)
    with pytest.raises(UsageError, match=r"f\.json: version 1 is not supported, expected 2"):
        Document("a list", "x/list", checksum, version=2).load(path)
    path.write_text(path.read_text().replace('"a": 1', '"a": 2'))
    if checksum:
        with pytest.raises(UsageError, match=r"f\.json: damaged or edited"):
            kind.load(path)
    else:
        assert kind.load(path) == {"a": 2}
    path.unlink()
    with pytest.raises(UsageError, match="No such file"):
        kind.load(path)
    with pytest.raises(UsageError, match=r"^gone$"):
        kind.load(path, "gone")


@given(st.one_of(st.integers(), st.integers(10, 400).map(lambda power: 10**power), st.floats()))
def test_every_number_that_is_written_can_be_read(number):
    """A space of 2^100 architectures has a number of architectures that does not fit into 64 bits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.json")
        write_json(path, {"number": number})
        found = read_json(path, "missing")["number"]
    if abs(number) < 1e308:  # false for NaN
        assert found == (number if isinstance(number, float) or abs(number) < 2**63 else float(number))
        assert found == pytest.approx(number)
    else:
        assert found is None or found == number
