"""Makes a trained network smaller: search, fine-tuning, comparison, export and report, in one run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.callbacks.interruption import Interrupted
from nas.compression.config import Compression
from nas.export.formats import DEFAULT
from nas.io.errors import UsageError
from nas.report.write import write_report
from nas.runs.compared import read_compared, write_compared
from nas.runs.config import load_experiment, resolved
from nas.runs.folder import RunFolder
from nas.runs.options import check_yaml, trust_words
from nas.runs.run import Run
from nas.runs.spaces import load_space_of
from nas.runs.stages import search as search_stage
from nas.runs.stages.export import export_run
from nas.runs.stages.retrain import retrain_run

EXPORT = "export"


def compress(
    model: str | Callable[[], Any],
    *,
    data: str | Callable[..., Any],
    limit: Mapping[str, float],
    weights: str | Path | None = None,
    example: str | Callable[[], Any] | None = None,
    task: str | None = None,
    epochs: int | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    trust_modules: Sequence[str] = (),
) -> Run:
    """Makes a trained network smaller as ``nas compress`` does, and returns the finished run.

    The folder holds the search, the fine-tuning in ``retrain``, files without gumbel-nas in ``export``, ``compression.json`` with both
    networks side by side, and ``report.html``. The same call continues a compression that was stopped.

    Example: ``nas.compress(build, weights="net.pt", data=digits, limit={"macs": 0.5}).network()``.

    Args:
        model: The function or class that makes the network, or its name as ``my_module:build``.
        data: A function that returns (training set, test set), see :class:`nas.data.TrainTest`; a data module; the name of either as
            ``my_module:data``; or an .npz file.
        limit: Name of a cost -> largest value; a value of at most 1 is a share of the network's own cost.
        weights: A state dict of the network; None: the weights that `model` makes.
        example: A function that makes an example of the network's inputs, or its name; None: the first input of the data.
        task: Dotted path of a task; None: classification.
        epochs: Epochs of the fine-tuning.
        config: A YAML file of settings.
        out: New run folder, or the folder to continue; None: ``runs/<model>_compress``.
        trust_modules: Your own modules that `config` may name.

    Raises:
        UsageError: An error found before the first file is written.
    """
    wanted = Compression(
        model=_name(model),
        data=_name(data),
        limits=dict(limit),
        weights=None if weights is None else Path(weights),
        example=None if example is None else _name(example),
        task=task,
        epochs=epochs,
        files=() if config is None else (Path(config),),
        trusted=tuple(trust_modules),
    )
    folder, trusted = start(wanted, None if out is None else Path(out))
    return Run(folder.path, trust_modules=trusted)


def _name(given: Any) -> str:
    """``module:name`` of a function or class, which the caller trusts."""
    if isinstance(given, str):
        return given
    module, name = getattr(given, "__module__", ""), getattr(given, "__qualname__", "")
    if not name or module == "__main__" or not name.isidentifier():
        raise UsageError(
            f"{given!r:.80}: give a function or class at the top of a module of its own, because each stage imports it again"
        )
    return f"{module}:{name}"


def start(wanted: Compression, out: Path | None) -> tuple[RunFolder, tuple[str, ...]]:
    """Makes a network smaller, or continues in the same folder; returns the folder and the modules that its configuration names.

    Raises:
        UsageError: An error found before the first file is written, or the folder holds a run with other settings.
    """
    source = wanted.source()
    path = out if out is not None else Path("runs") / f"{wanted.name}_compress"
    if (path / "config.yaml").exists():
        folder = RunFolder.open(path, "search")
        if resolved(check_yaml(folder.config), source.trusted) != load_experiment(source).values:
            raise UsageError(f"{folder.shown} holds a run with other settings; name another folder with --out")
    else:
        with _interruptible(RunFolder(path), source.trusted):
            search_stage.search(source, path)
    return go_on(path, source.trusted), source.trusted


def go_on(path: Path, trusted: tuple[str, ...]) -> RunFolder:
    """Does the stages that are missing in the folder of a compression; a finished stage is not done again.

    Raises:
        UsageError: The folder is not that of a search in a space of one trained network, or was changed.
    """
    folder = RunFolder.open(path, "search")
    space = load_space_of(folder.source(trusted))
    if space.parent() is None:
        raise UsageError(f"{folder.shown}: {type(space).__name__} is not the space of a trained network")
    with _interruptible(folder, trusted):
        search_stage.resume(path, trusted)
        if not folder.retrain.finished:
            retrain_run(path, seed=None, inherit=True, out=None, trusted=trusted)
        if read_compared(folder) is None:
            write_compared(folder, trusted)
        if not (folder.path / EXPORT).exists():
            export_run(path, DEFAULT, None, trusted=trusted)
        write_report(path, "html", None, trusted)
    return folder


@contextmanager
def _interruptible(folder: RunFolder, trusted: tuple[str, ...]) -> Iterator[None]:
    """Names the command that goes on after a signal, whichever stage it stopped."""
    try:
        yield
    except Interrupted as stop:
        again = f"resume with: nas compress --run {folder.quoted}{trust_words(trusted)}"
        raise Interrupted(stop.signum, again) from None
