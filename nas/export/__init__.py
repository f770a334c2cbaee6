"""A discovered network in files that anyone can use without this framework."""

from __future__ import annotations

from pathlib import Path


def fresh_script() -> str:
    """Path of the script that runs exported files in an interpreter of its own."""
    return str(Path(__file__).with_name("fresh.py"))
