import os

import pytest

from nas.csv_file import CsvFile, read_columns
from nas.errors import UsageError
from nas.files import read_json, replacing, sha256, write_atomic, write_json


def test_a_failed_write_leaves_the_old_content_and_no_scrap(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, "old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["f"]


def test_the_old_file_is_kept_when_asked(tmp_path):
    path, kept = tmp_path / "f", tmp_path / "k"
    for text in (b"1", b"2", b"3"):
        with replacing(path, keep_as=kept) as file:
            file.write(text)
    assert (path.read_bytes(), kept.read_bytes()) == (b"3", b"2")


def test_files_are_as_readable_as_others(tmp_path):
    write_atomic(tmp_path / "f", "x")
    (tmp_path / "g").write_text("x")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "g").stat().st_mode


def test_sha256_of_a_known_text(tmp_path):
    write_atomic(tmp_path / "f", "abc")
    assert sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_csv_numbers_are_not_rounded_and_none_is_empty(tmp_path):
    file = CsvFile(tmp_path / "m.csv")
    file.append(1, {"a": 0.1 + 0.2, "b": None})
    assert (tmp_path / "m.csv").read_text() == "step,a,b\n1,0.30000000000000004,\n"


def test_csv_is_cut_back_and_goes_on(tmp_path):
    path = tmp_path / "m.csv"
    first = CsvFile(path)
    for step in (1, 2, 3):
        first.append(step, {"a": step})
    with open(path, "a") as file:
        file.write("4,")  # a line cut short by a crash
    second = CsvFile(path)
    second.cut_after(2)
    second.append(5, {"a": 5})
    assert path.read_text() == "step,a\n1,1\n2,2\n5,5\n"
    with pytest.raises(ValueError, match="columns changed"):
        second.append(6, {"b": 1})


def test_csv_cut_before_the_first_row_keeps_only_the_header(tmp_path):
    path = tmp_path / "m.csv"
    CsvFile(path).append(7, {"a": 1})
    again = CsvFile(path)
    again.cut_after(0)
    assert path.read_text() == "step,a\n"
    path.write_text("step,")
    CsvFile(path).cut_after(0)
    assert not path.exists()


def test_json_comes_back_and_what_is_none_is_refused_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    write_json(path, {"a": [1, None], "b": float("nan"), "c": {"d": float("inf")}})
    assert read_json(path, "gone") == {"a": [1, None], "b": None, "c": {"d": None}}
    for text in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        path.write_bytes(text)
        with pytest.raises(UsageError, match="damaged"):
            read_json(path, "gone")
    with pytest.raises(UsageError, match="directory"):
        read_json(tmp_path, "gone")
    path.write_text("{}" + " " * 100)
    monkeypatch.setattr("nas.files.MAX_JSON_BYTES", 100)
    with pytest.raises(UsageError, match="larger than 100 bytes"):
        read_json(path, "gone")
    path.unlink()
    with pytest.raises(UsageError, match="gone"):
        read_json(path, "gone")


def test_columns_are_read_back(tmp_path):
    file = CsvFile(tmp_path / "m.csv")
    file.append(3, {"a/x": 0.1, "a/y": None, "b": 2.0})
    file.append(6, {"a/x": 1e-17, "a/y": 5.0, "b": 3.0})
    assert read_columns(file.path, "a/") == [(3, {"a/x": 0.1}), (6, {"a/x": 1e-17, "a/y": 5.0})]
    file.path.write_text("step,a\nx,1\n")
    with pytest.raises(ValueError, match="damaged"):
        read_columns(file.path)
