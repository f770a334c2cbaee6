"""Primitive operations of the hot path."""

from nas.ops.mix import mix

__all__ = ["mix"]
