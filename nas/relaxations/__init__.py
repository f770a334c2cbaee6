"""Relaxations: maps from (logits, tau, noise) to op weights on the simplex."""

from nas.relaxations.base import Relaxation, gumbel_noise, straight_through
from nas.relaxations.gumbel_softmax import GumbelSoftmax
from nas.relaxations.sampled_path import SampledPath
from nas.relaxations.softmax import Softmax

__all__ = ["GumbelSoftmax", "Relaxation", "SampledPath", "Softmax", "gumbel_noise", "straight_through"]
