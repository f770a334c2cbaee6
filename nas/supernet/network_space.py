"""The search space of one network class."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from nas.supernet.search_space import SearchSpace


class NetworkSpace(SearchSpace):
    """The space of any class or function that makes a network with choices, so that no :class:`nas.SearchSpace` has to be written.

    Args:
        network: Makes the network, for example a class with its arguments.
        part: Name of the attribute that holds the network, if the class is that of a larger module; None: the module itself.
    """

    def __init__(self, network: Callable[[], nn.Module], part: str | None = None) -> None:
        self.make = network
        self.part = part

    def network(self, stage: str = "search") -> nn.Module:
        made = self.make()
        found: nn.Module = made if self.part is None else getattr(made, self.part)
        return found
