"""Layers that draw relaxed samples of logits that they compute from their input."""

from nas.layers.routed import Routed as Routed
from nas.layers.routed import balance_losses as balance_losses
