"""An append-only CSV file that a resumed run can cut back to its checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.io.files import naming, open_own, write_atomic
from nas.io.reading import MAX_CSV_BYTES, MAX_CSV_ROW_BYTES, check_size, size_of

STEP = "step"


class CsvFile:
    """One row for each step; the first row sets the columns. Numbers are written with ``repr``, so they are not rounded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] | None = None

    def cut_after(self, step: int) -> None:
        """Removes the rows after `step`, and an incomplete last line."""
        if not self.path.exists():
            return
        check_size(self.path, MAX_CSV_BYTES)
        try:
            lines = self.path.read_text().splitlines(keepends=True)
            kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",", 1)[0]) <= step]
        except ValueError:
            raise ValueError(f"{self.path}: damaged; remove the file to continue without its rows") from None
        if lines and lines[0].endswith("\n"):
            self._columns = next(csv.reader(lines[:1]))
            write_atomic(self.path, "".join([lines[0], *kept]))
        else:
            self.path.unlink()

    def append(self, step: int, row: Mapping[str, Any]) -> None:
        """Writes one row; None becomes an empty cell. Raises ValueError if the columns differ from the first row."""
        cells = {STEP: step, **row}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._columns is None:
            self._columns = list(cells)
            writer.writerow(self._columns)
        if list(cells) != self._columns:
            raise ValueError(f"{self.path}: columns changed to {list(cells)}")
        writer.writerow(["" if value is None else repr(value) for value in cells.values()])
        with naming(self.path), open(self.path, "a", opener=open_own) as file:
            file.write(text.getvalue())


def read_columns(path: Path, prefix: str = "") -> list[tuple[int, dict[str, float]]]:
    """The rows of a file: step, and column -> number for nonempty cells of columns that begin with `prefix`.

    Skips an incomplete last line. Raises ValueError if the file is damaged.
    """
    check_size(path, MAX_CSV_BYTES)
    with _damage_named(path):
        return _rows(path.read_text(), prefix)


def last_row(path: Path) -> dict[str, float]:
    """The numbers of the last complete row, read from the end of the file; empty without rows.

    Raises:
        ValueError: The file is damaged.
    """
    with open(path, "rb") as file, _damage_named(path):
        head = file.readline()
        file.seek(max(len(head), size_of(path) - MAX_CSV_ROW_BYTES))
        lines = file.read().rpartition(b"\n")[0].splitlines()
        rows = _rows((head + lines[-1] + b"\n").decode()) if lines else []
    return rows[-1][1] if rows else {}


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: damaged") from None


def _rows(text: str, prefix: str = "") -> list[tuple[int, dict[str, float]]]:
    return [
        (
            int(row[STEP]),
            {key: float(cell) for key, cell in row.items() if key.startswith(prefix) and cell and key != STEP},
        )
        for row in csv.DictReader(text.rpartition("\n")[0].splitlines())
    ]
