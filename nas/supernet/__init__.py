"""Choices, the supernet that holds them, and walks over it."""

from nas.supernet.supernet import Supernet

__all__ = ["Supernet"]
