import os
import subprocess
import sys

import pytest

from nas.io.csv_file import MAX_CSV_ROW_BYTES, CsvFile, last_row, read_columns
from nas.io.errors import UsageError, describe
from nas.io.files import atomic_file, atomic_folder, remove_temporary_files, sha256, write_atomic


def test_a_failed_write_leaves_the_old_content_and_no_scrap(tmp_path):
    path = tmp_path / "f"
    write_atomic(path, "old")
    with pytest.raises(KeyError), atomic_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["f"]


def test_the_old_file_is_kept_when_asked(tmp_path):
    path, kept = tmp_path / "f", tmp_path / "k"
    for text in (b"1", b"2", b"3"):
        with atomic_file(path, keep_as=kept) as file:
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


def test_columns_are_read_back(tmp_path):
    file = CsvFile(tmp_path / "m.csv")
    file.append(3, {"a/x": 0.1, "a/y": None, "b": 2.0})
    file.append(6, {"a/x": 1e-17, "a/y": 5.0, "b": 3.0})
    assert read_columns(file.path, "a/") == [(3, {"a/x": 0.1}), (6, {"a/x": 1e-17, "a/y": 5.0})]
    file.path.write_text("step,a\nx,1\n")
    with pytest.raises(ValueError, match="damaged"):
        read_columns(file.path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "folder"
    with pytest.raises(RuntimeError, match="crash"), atomic_folder(target) as folder:
        (folder / "a").write_text("x")
        raise RuntimeError("crash")
    assert list(target.parent.iterdir()) == []
    with atomic_folder(target) as folder:
        (folder / "a").write_text("x")
        assert not target.exists()
    assert (target / "a").read_text() == "x" and list(target.parent.iterdir()) == [target]
    (tmp_path / "file").touch()
    for taken, message in ((target, "exists already"), (tmp_path / "file" / "f", "File exists")):
        with pytest.raises(UsageError, match=f"{taken}: cannot be made: {message}"), atomic_folder(taken):
            raise AssertionError("not reached")


def test_scraps_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    for name in ("last.ckpt", ".hidden", "x.tmp"):
        (tmp_path / name).touch()
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from nas.io.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "last.ckpt"], check=False)
    assert len(list(tmp_path.iterdir())) == 4
    remove_temporary_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", ".hidden", "x.tmp"}


def test_errors_of_the_system_name_the_file(tmp_path):
    with pytest.raises(OSError) as error, atomic_file(tmp_path / "f"):
        raise OSError(28, "No space left on device")
    assert describe(error.value) == f"{tmp_path}/f: No space left on device"


@pytest.mark.parametrize("num_rows", [1, 3, 40_000], ids=["one", "few", "more than the end that is read"])
def test_the_last_row_alone_is_the_last_of_all(tmp_path, num_rows):
    path = tmp_path / "m.csv"
    rows = [f"{i},{i / 3!r},{'' if i % 2 else i / 7}\n" for i in range(num_rows)]
    path.write_text("".join(["step,x,y\n", *rows]))
    assert num_rows < 1000 or path.stat().st_size > MAX_CSV_ROW_BYTES
    assert last_row(path) == read_columns(path)[-1][1]
    with open(path, "a") as file:
        file.write("99,1.5")  # being written
    assert last_row(path) == read_columns(path)[-1][1]
    path.write_text("step,x,y\n")
    assert last_row(path) == {}
    path.write_text("step,x,y\n1,a,2\n")
    with pytest.raises(ValueError, match=r"m\.csv: damaged"):
        last_row(path)
