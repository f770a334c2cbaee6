"""What affects the numbers of a run besides its configuration: versions of packages, and the commit of the user's code."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("gumbel-nas", "torch", "torchvision", "pytorch-lightning", "tensorboard", "jsonargparse", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a run's numbers."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


@cache  # finding the metadata of a package takes milliseconds
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git_commit() -> str | None:
    """The commit of the working directory; None outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
