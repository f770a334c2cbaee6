"""Primitive operations of the hot path."""

from nas.ops.mix import mix, mix_reference, sum_outputs
from nas.ops.taps import runs_natively, tap_conv, tap_conv_reference

__all__ = ["mix", "mix_reference", "runs_natively", "sum_outputs", "tap_conv", "tap_conv_reference"]
