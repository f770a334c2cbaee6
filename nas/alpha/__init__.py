"""What a supernet learns: distributions over the candidates of all choices."""

from nas.alpha.autoregressive import Autoregressive
from nas.alpha.base import Alpha, Factorised
from nas.alpha.joint import Joint
from nas.alpha.pairwise import Pairwise

__all__ = ["Alpha", "Autoregressive", "Factorised", "Joint", "Pairwise"]
