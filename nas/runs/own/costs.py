"""Cost limits of a search in training code of the user: the tables are made from the inputs of the network's first call."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas.costs.functions import CostFunction
from nas.costs.limits import Limit, most_probable
from nas.costs.table import CostTable
from nas.costs.tabulate import CostModel
from nas.evaluation import first_samples
from nas.io.distributed import gathered
from nas.io.errors import UsageError
from nas.io.rng import untouched_rng
from nas.regularizers import ArchState, Regularizer
from nas.runs.schema import Target, read_targets
from nas.runs.targets import limits_of, penalties, tabulated
from nas.supernet.supernet import Supernet
from nas.training.cost_penalty import CostPenalty


class ByKeyword(nn.Module):
    """A network whose last arguments are passed by keyword, for functions that pass all arguments by position."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, *args: Any) -> Any:
        """Calls the network."""
        first = len(args) - len(self.names)
        return self.network(*args[:first], **dict(zip(self.names, args[first:], strict=True)))


def by_position(
    network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, as many as possible by position."""
    try:
        bound = inspect.signature(network.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return args, dict(kwargs)
    return bound.args, bound.kwargs


def all_by_position(
    network: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A network that takes all arguments by position, and these arguments."""
    return (ByKeyword(network, list(keywords)) if keywords else network), (*args, *keywords.values())


class OwnCosts(Regularizer):
    """The limits of a search and their tables; as a regularizer, the sum of their penalties.

    Args:
        limits: Cost -> largest value. A cost is a name or a function of a network and its inputs.
        inputs: Arguments of the network for one sample; None: those of its first call.

    Attributes:
        sample: Arguments of the network for one sample: by position, and by keyword.
        penalties: One for each limit; empty until the tables are known.

    Raises:
        UsageError: An unknown cost, or a limit that is not a number above 0.
    """

    def __init__(self, limits: Mapping[str | CostFunction, float], inputs: Sequence[Any] | None) -> None:
        if inputs is not None and not isinstance(inputs, (list, tuple)):
            raise UsageError(f"inputs must be a list of the network's arguments, got a {type(inputs).__name__}")
        self.targets: list[Target] = []
        for cost, limit in limits.items():
            if isinstance(cost, str):
                self.targets += read_targets({cost: {"max": limit}}, ())
            elif not (math.isfinite(limit) and limit > 0):
                raise UsageError(f"limits: {cost.__name__} must be a number above 0, got {limit!r:.80}")
            else:
                self.targets.append(Target(cost.__name__, float(limit), 1.0, cost))
        self.sample: tuple[tuple[Any, ...], dict[str, Any]] | None = None if inputs is None else (tuple(inputs), {})
        self.tables: dict[str, CostTable] = {}
        self.penalties: list[CostPenalty] = []

    def penalty(self, state: ArchState) -> Tensor | None:
        return sum((part.penalty(state) for part in self.penalties), state.alpha.new_zeros(()))

    @property
    def limits(self) -> list[Limit]:
        """The limits; empty until the tables are known."""
        return limits_of(self.targets, self.tables) if self.tables else []

    def check_known(self) -> None:
        """Raises UsageError for limits whose costs are not known after a step."""
        if self.targets and not self.tables:
            raise UsageError(
                "limits: costs are counted from the first call of the whole network, but the step did not call it as a whole; pass inputs="
            )

    @contextmanager
    def watching(self, supernet: Supernet) -> Iterator[None]:
        """Keeps one sample of the arguments of the network's first call inside the block, and makes the tables at its end."""
        network = supernet.network

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.sample is None:
                self.sample = first_samples(by_position(network, args, kwargs))

        handle = None if self.sample is not None else network.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            if handle is not None:
                handle.remove()
        self.tabulate(supernet)

    def tabulate(self, supernet: Supernet) -> None:
        """Makes the tables, if that is possible and not done.

        Raises:
            UsageError: A cost cannot be tabulated.
            nas.costs.limits.Infeasible: No architecture keeps the limits.
        """
        if not self.targets or self.tables or self.sample is None:
            return
        network, inputs = self.called(supernet.network)
        device = supernet.alpha.device
        with untouched_rng(device):
            model = CostModel(Supernet(network).to(device), inputs)
            costs = {target.name: target.function for target in self.targets}
            tables = tabulated(model, costs, device, measure=True, where="limits")
        self._use(supernet, gathered(tables)[0])  # each process measures other latencies

    def called(self, network: nn.Module) -> tuple[nn.Module, tuple[Any, ...]]:
        """A network that takes its arguments by position, and its arguments for one sample."""
        assert self.sample is not None
        return all_by_position(network, *self.sample)

    def _use(self, supernet: Supernet, tables: dict[str, CostTable]) -> None:
        most_probable(supernet.network, supernet.probabilities(), limits_of(self.targets, tables))
        self.tables, self.penalties = tables, penalties(supernet, self.targets, tables)

    @torch.no_grad()
    def expected(self, probabilities: Tensor) -> dict[str, float | None]:
        """The expected cost of every limit; None until the tables are known."""
        known = {p.expected.table.name: float(p.expected(probabilities)) for p in self.penalties}
        return {f"cost/{target.name}": known.get(target.name) for target in self.targets}

    def state(self) -> dict[str, Any]:
        """The tables, for a checkpoint."""
        return {name: table.to_json() for name, table in self.tables.items()}

    def load(self, state: Mapping[str, Any], supernet: Supernet) -> None:
        """Continues with the tables of a checkpoint, since latencies measured again would differ."""
        if set(state) == {target.name for target in self.targets} and state:
            self._use(supernet, {name: CostTable.from_json(content) for name, content in state.items()})
