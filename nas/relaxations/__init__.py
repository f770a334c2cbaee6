"""Relaxations: maps from (logits, tau, noise) to op weights on the simplex."""

from nas.relaxations.base import OpWeights, Relaxation, Sampler, gumbel_max, gumbel_noise, straight_through
from nas.relaxations.binary_concrete import BinaryConcrete, binary_concrete
from nas.relaxations.dirichlet import Dirichlet
from nas.relaxations.gumbel_rao import GumbelRao
from nas.relaxations.gumbel_softmax import GumbelSoftmax
from nas.relaxations.reinmax import ReinMax
from nas.relaxations.sampled_path import SampledPath
from nas.relaxations.sinkhorn import GumbelSinkhorn, hard_permutation, sinkhorn
from nas.relaxations.softmax import Softmax
from nas.relaxations.two_path import TwoPath

__all__ = [
    "BinaryConcrete",
    "Dirichlet",
    "GumbelRao",
    "GumbelSinkhorn",
    "GumbelSoftmax",
    "OpWeights",
    "ReinMax",
    "Relaxation",
    "SampledPath",
    "Sampler",
    "Softmax",
    "TwoPath",
    "binary_concrete",
    "gumbel_max",
    "gumbel_noise",
    "hard_permutation",
    "sinkhorn",
    "straight_through",
]
