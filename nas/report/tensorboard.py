"""TensorBoard on loopback."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from nas.io.errors import UsageError
from nas.io.parent import python_command
from nas.launch.launch import LAUNCH, PAGES

HOST = "127.0.0.1"
SAMPLES = "images=1000,scalars=100000,text=100,histograms=1000"
"""Points of a tag that TensorBoard keeps; by default it keeps ten images. Its help says that 0 keeps all, but 0 leaves charts empty."""


def command(folder: Path, port: int) -> list[str]:
    """The command that serves the runs under a folder."""
    words = ["--logdir", str(folder), "--host", HOST, "--port", str(port)]
    words += ["--samples_per_plugin", SAMPLES, "--load_fast=false", "--reload_interval", "15"]
    return python_command("tensorboard.main", "run_main", *words)


def pages_of(folder: Path) -> tuple[Path, str]:
    """The folder to serve and the fragment of its first page: of a launch that has pages, these; else the folder itself."""
    pages = folder / PAGES
    return (pages, "#custom_scalars") if (folder / LAUNCH).is_file() and pages.is_dir() else (folder, "")


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Starts TensorBoard for the runs in a folder, at any depth; a UsageError if there is no run."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if not any(folder.rglob("events.out.*")):
        raise UsageError(f"{folder}: no run in it (no events.out.* file)")
    return subprocess.Popen(command(folder, port), stderr=subprocess.DEVNULL)
