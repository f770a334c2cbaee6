"""Strategies that turn a searched supernet into a genotype."""

from nas.derive.argmax import Argmax as Argmax
from nas.derive.base import DeriveStrategy as DeriveStrategy
from nas.derive.base import Searched as Searched
from nas.derive.base import discretized as discretized
from nas.derive.block_scores import BlockScores as BlockScores
from nas.derive.evolution import Evolution as Evolution
from nas.derive.fine_tuned import FineTuned as FineTuned
from nas.derive.perturbation import Perturbation as Perturbation
from nas.derive.ranked import Ranked as Ranked
