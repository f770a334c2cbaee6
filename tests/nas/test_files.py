import os

import pytest

from nas.csv_file import CsvFile
from nas.files import replacing, sha256, write_atomic


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
