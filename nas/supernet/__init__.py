"""Choices, the supernet that holds them, and walks over it."""

from nas.supernet.supernet import Supernet, argmax_choices, check_per_sample

__all__ = ["Supernet", "argmax_choices", "check_per_sample"]
