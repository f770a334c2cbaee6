"""Writing a report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nas.drawing import draw_architecture
from nas.io.errors import UsageError
from nas.io.files import write_atomic
from nas.report.content import read_content
from nas.report.html import html_report, markdown_report
from nas.runs.spaces import load_space_of

Format = Literal["html", "md"]


def write_report(path: Path, form: Format, out: Path | None, trusted: tuple[str, ...] = ()) -> Path:
    """Writes the report of a finished run.

    Args:
        path: Run folder of a search or a retraining.
        form: ``"html"``: one file with pictures; ``"md"``: without pictures.
        out: The file; None: ``report.html`` or ``report.md`` in the run folder.
        trusted: The user's own modules.

    Raises:
        UsageError: The run is not finished, or the file cannot be written.
    """
    content = read_content(path, trusted)
    if form == "html":
        cells = load_space_of(content.folder.source(trusted)).cells(content.genotype.choices)
        text = html_report(content, draw_architecture(content.genotype, cells))
    else:
        text = markdown_report(content)
    target = out if out is not None else content.folder.path / f"report.{form}"
    try:
        write_atomic(target, text)
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from None
    return target
