"""Trains alpha inside a loop that trains the weights itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from nas.bilevel import Alternating
from nas.io.distributed import average, process_rank
from nas.io.errors import describe
from nas.training.loop_step import LoopStep
from nas.training.lr_schedules import LRSchedule
from nas.training.sampling import Moment, Sampling
from nas.training.schedules import RUN, OptimizerFactory, Schedules


class ArchTrainer:
    """Alpha, its optimizer, and the place in the loop; see :class:`nas.Searcher` for the arguments.

    Attributes:
        num_steps_done: Number of steps of the weights.
    """

    def __init__(
        self,
        sampling: Sampling,
        bilevel: Alternating,
        optimizer: OptimizerFactory,
        schedule: LRSchedule,
        num_steps: int,
        warmup_steps: int,
    ) -> None:
        self.sampling, self.bilevel = sampling, bilevel
        self.warmup_steps = warmup_steps
        self.num_steps_done = 0
        self._parts = (sampling.supernet, sampling.tau, sampling.relaxation)
        parameters = [
            *sampling.supernet.arch_parameters(),
            *sampling.tau.parameters(),
            *sampling.relaxation.parameters(),
        ]
        made = optimizer([parameter for parameter in parameters if parameter.requires_grad])
        self._schedules = Schedules({"arch": made}, {"arch": (schedule, num_steps - warmup_steps)}, num_steps)
        self._num_since = 0  # steps of alpha since the last step of the weights
        self._version: int | None = None
        self._loaded: Mapping[str, Any] = {}

    @property
    def moment(self) -> Moment:
        """The place in the search."""
        done = self.num_steps_done
        return Moment(done, self._schedules.plans[RUN](done), done < self.warmup_steps, process_rank())

    def begin(self, network: nn.Module) -> None:
        """Moves alpha to the device of the network, restores the optimizer, and checks that only it has changed alpha."""
        alpha = self.sampling.supernet.alpha
        device = next((weight.device for weight in network.parameters()), alpha.device)
        if alpha.device != device:
            for part in self._parts:
                part.to(device)
        if self._loaded:  # the device was unknown before
            self._schedules.load_state_dict(self._loaded, self.num_steps_done)
            self._loaded = {}
        if self._version not in (None, alpha._version):
            raise ValueError(
                "alpha was changed outside of arch_step: an optimizer of the loop holds it; give it network.parameters()"
            )
        self._version = alpha._version

    def step(self, loss: Callable[[], Tensor]) -> Tensor:
        """A step of alpha; returns the loss, a mean over all processes."""
        step = LoopStep(self.sampling, self._schedules, self.moment, self._num_since, loss)
        self.bilevel.arch_step(step)
        supernet = self.sampling.supernet
        self._num_since, self._version = self._num_since + 1, supernet.alpha._version
        if self.bilevel.draws_at_tau:
            supernet.distribution.temperature.copy_(step.tau.detach())
        mean = step.mean_loss
        average([mean])
        return mean

    def advance(self) -> None:
        """Counts a step of the weights."""
        self.num_steps_done, self._num_since = self.num_steps_done + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Alpha, its optimizer and the number of steps; the weights belong to the loop."""
        supernet, tau, relaxation = self._parts
        alpha = {key: value for key, value in supernet.state_dict().items() if not key.startswith("network.")}
        return {
            "alpha": alpha,
            "tau": tau.state_dict(),
            "relaxation": relaxation.state_dict(),
            "schedules": self._schedules.state_dict(),
            "num_steps_done": self.num_steps_done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`; raises ValueError for a state of other choices."""
        supernet, tau, relaxation = self._parts
        weights = {f"network.{key}": value for key, value in self.sampling.supernet.network.state_dict().items()}
        try:
            supernet.load_state_dict({**weights, **state["alpha"]})
        except RuntimeError as error:
            raise ValueError(f"the state of another search: {describe(error)}") from error
        tau.load_state_dict(state["tau"])
        relaxation.load_state_dict(state["relaxation"])
        self.num_steps_done, self._version = state["num_steps_done"], None
        self._loaded = state["schedules"]
