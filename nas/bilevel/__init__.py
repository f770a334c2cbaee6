"""Methods that train weight parameters and arch parameters together."""

from nas.bilevel.base import Alternating, ArchStep, Bilevel, Level, Step
from nas.bilevel.first_order import FirstOrder, Joint
from nas.bilevel.score_function import ScoreFunction, score_loss
from nas.bilevel.unrolled import Unrolled, virtual_weights

__all__ = [
    "Alternating",
    "ArchStep",
    "Bilevel",
    "FirstOrder",
    "Joint",
    "Level",
    "ScoreFunction",
    "Step",
    "Unrolled",
    "score_loss",
    "virtual_weights",
]
