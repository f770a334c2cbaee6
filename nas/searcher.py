"""A search inside a training loop of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from nas.alpha import Alpha
from nas.bilevel import Alternating, FirstOrder
from nas.derive import Argmax, Searched
from nas.evaluation import recalibrate_batch_norm
from nas.genotype import Genotype
from nas.io.distributed import process_rank
from nas.paths import Paths
from nas.regularizers import Regularizer
from nas.relaxations import GumbelSoftmax, Relaxation
from nas.runs.own.costs import OwnCosts
from nas.runs.own.folder import OwnRun
from nas.runs.own.network import described, space_of
from nas.supernet.network_space import NetworkSpace
from nas.supernet.running import running
from nas.supernet.supernet import Supernet
from nas.tau import Exponential, TauSchedule
from nas.training import arch_statistics
from nas.training.loop_step import LoopStep
from nas.training.lr_schedules import LRSchedule
from nas.training.sampling import Moment, Sampling
from nas.training.schedules import OptimizerFactory, Schedules

ADAM = partial(Adam, lr=0.03, betas=(0.5, 0.999))
NUM_ROWS = 100
"""Number of rows that a search writes to its run folder."""


class Searcher:
    """Searches the choices of a network inside your own loop, which trains the weights and calls the network as before.

    Every draw is keyed by (seed, purpose, step), so that a loop that restores :meth:`state_dict` draws the same numbers.

    Example:
        >>> searcher = nas.Searcher(network, num_steps=1000, limits={"macs": 4e6})
        >>> for batch, arch_batch in batches:
        ...     searcher.arch_step(lambda: loss(network(arch_batch.x), arch_batch.y))
        ...     with searcher.sampled():
        ...         loss(network(batch.x), batch.y).backward()
        ...     optimizer.step(), optimizer.zero_grad()
        >>> network = searcher.finish()

    Args:
        network: The network with its choices, or a class or ``functools.partial`` that makes it. The optimizer of the loop trains
            ``searcher.network.parameters()``; alpha is not among them.
        num_steps: Number of steps of the loop, over which tau is annealed.
        relaxation: Draws op weights from alpha; default straight-through Gumbel-Softmax.
        tau: Temperature schedule; default exponential from 5 to 0.2.
        alpha: The distribution over architectures; default :class:`nas.alpha.Factorised`.
        bilevel: How alpha is trained: :class:`nas.bilevel.FirstOrder` (default) or :class:`nas.bilevel.ScoreFunction`.
        arch_optimizer: Optimizer of alpha; default Adam with a rate of 0.03.
        arch_schedule: Learning-rate schedule of alpha, over the steps after the warm-up.
        warmup_steps: Number of steps at the start in which alpha is frozen.
        warmup_paths: Selects the candidates that the warm-up trains; None: the relaxation draws them.
        regularizers: Terms of the loss of alpha, and perturbations of the op weights.
        limits: Cost -> largest value. A cost is a name (``macs``, ``params``, ``activations``, ``latency_ms``) or a function of a network
            and its inputs. The found architecture keeps the limits exactly.
        inputs: Arguments of the network for one sample, for the cost tables; None: those of its first call in the loop.
        seed: Seed of all draws.
        out: Run folder for ``nas dashboard``, ``nas report``, ``nas export`` and others; None: no files.
        log_every: Number of steps between two rows of scalars; None: a hundredth of `num_steps`.
        made_by: Makes the network again, for commands that read `out`; None: `network`, or its class without arguments.

    Attributes:
        network: The network with its choices.
        supernet: Finds the choices and owns alpha.
        num_steps_done: Number of steps taken.
        row: The last row of scalars, tag -> value.

    Raises:
        ValueError: The network has no choices, or the parts do not fit together.
        nas.costs.limits.Infeasible: No architecture keeps the limits (before the first step with `inputs`, otherwise after it).
    """

    def __init__(
        self,
        network: nn.Module | Callable[[], nn.Module],
        *,
        num_steps: int,
        relaxation: Relaxation | None = None,
        tau: TauSchedule | None = None,
        alpha: Alpha | None = None,
        bilevel: Alternating | None = None,
        arch_optimizer: OptimizerFactory = ADAM,
        arch_schedule: LRSchedule = "constant",
        warmup_steps: int = 0,
        warmup_paths: Paths | None = None,
        regularizers: Sequence[Regularizer] = (),
        limits: Mapping[Any, float] | None = None,
        inputs: Sequence[Any] | None = None,
        seed: int = 0,
        out: str | Path | None = None,
        log_every: int | None = None,
        made_by: NetworkSpace | None = None,
    ) -> None:
        if not 0 <= warmup_steps < num_steps:
            raise ValueError(
                f"warmup_steps must lie in 0 ... num_steps - 1, got {warmup_steps} of {num_steps}, so alpha would never be trained"
            )
        self.network = network if isinstance(network, nn.Module) else network()
        self.supernet = Supernet(self.network, distribution=alpha)
        if not self.supernet.choices:
            raise ValueError(f"{type(self.network).__name__} has no choices: put nas.choice or another choice into it")
        self.relaxation = relaxation if relaxation is not None else GumbelSoftmax(hard=True)
        self.tau = tau if tau is not None else Exponential(start=5.0, end=0.2)
        self.bilevel = bilevel if bilevel is not None else FirstOrder()
        if not isinstance(self.bilevel, Alternating):
            raise ValueError(f"{type(self.bilevel).__name__} trains the weights too; use FirstOrder or ScoreFunction")
        self.num_steps, self.warmup_steps, self.seed = num_steps, warmup_steps, seed
        self.num_steps_done = 0
        self.log_every = max(1, num_steps // NUM_ROWS) if log_every is None else log_every
        self.row: dict[str, float | None] = {}
        self.costs = OwnCosts(limits or {}, inputs)
        self.run = None if out is None else OwnRun(out, described(made_by or space_of(network), self))
        self._sampling = Sampling(
            supernet=self.supernet,
            relaxation=self.relaxation,
            tau=self.tau,
            regularizers=[*regularizers, self.costs],
            warmup_paths=warmup_paths,
            seed=seed,
        )
        parameters = [*self.supernet.arch_parameters(), *self.tau.parameters(), *self.relaxation.parameters()]
        optimizer = arch_optimizer([parameter for parameter in parameters if parameter.requires_grad])
        schedule = (arch_schedule, num_steps - warmup_steps)
        self._schedules = Schedules({"arch": optimizer}, {"arch": schedule}, num_steps)
        self._arch_losses: list[Tensor] = []
        self._part = 0
        self._version: int | None = None
        self._loaded: dict[str, Any] = {}

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """One step of the loop: calls of the network inside the block run with one draw of op weights. The draw passes no gradient."""
        self._begin()
        sample = self._sampling.draw("weight", self._moment, 1)
        with self._measured(), running(self.supernet, sample._replace(weights=sample.weights.detach())):
            yield
        self.num_steps_done, self._part = self.num_steps_done + 1, 0
        if self.num_steps_done % self.log_every == 0:
            self.write()

    def arch_step(self, loss: Callable[[], Tensor]) -> Tensor | None:
        """Trains alpha on a loss, unless the warm-up lasts. The gradients of the weights do not change.

        Args:
            loss: Computes the loss of a batch that does not train the weights, by calling the network.

        Returns:
            The loss; None during the warm-up.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        self._begin()
        if self._moment.warm_up:
            return None
        step = LoopStep(self._sampling, self._schedules, self._moment, self._part, loss)
        with self._measured():
            self.bilevel.arch_step(step)
        self._part, self._version = self._part + 1, self.supernet.alpha._version
        if self.bilevel.draws_at_tau:
            self.supernet.distribution.temperature.copy_(step.tau.detach())
        self._arch_losses.append(step.mean_loss)
        return step.mean_loss

    @contextmanager
    def most_probable(self) -> Iterator[None]:
        """Calls of the network inside the block run the most probable architecture, for validation.

        It is within the limits as soon as their costs are known.
        """
        found = Argmax().genotype(self.searched)
        with running(self.supernet, self.supernet.one_hot(found, run_all=False)):
            yield

    @property
    def genotype(self) -> Genotype:
        """The most probable architecture within the limits; raises ValueError while their costs are unknown."""
        self.costs.check_known()
        return Argmax().genotype(self.searched)

    @property
    def searched(self) -> Searched:
        """The input of derive strategies, without data; it has the limits as soon as their costs are known."""
        return Searched(
            supernet=self.supernet,
            relaxation=self.relaxation,
            space=NetworkSpace(lambda: self.network),
            limits=self.costs.limits,
            device=self.supernet.alpha.device,
            seed=self.seed,
        )

    def derive(self, batches: Iterable[Any] = ()) -> nn.Module:
        """The plain network of the most probable architecture within the limits, with the trained weights.

        Args:
            batches: (inputs, target) batches that recalibrate batch norms, whose statistics otherwise mix architectures.
        """
        network = self.supernet.derive(self.genotype)
        if batches:
            recalibrate_batch_norm(network, batches, self.supernet.alpha.device)
        return network

    def finish(self, network: nn.Module | None = None, **metrics: float) -> nn.Module:
        """Ends the run folder: genotype, weights, summary and pictures. Returns the plain network.

        Args:
            network: The result of :meth:`derive`, which this method calls if it is None.
            **metrics: What the loop measured; the first is the headline metric of the run. Default: the last losses of alpha.
        """
        found = self.derive() if network is None else network
        if self.run is not None and process_rank() == 0:
            self.run.finish(self, found, metrics)
        return found

    @torch.no_grad()
    def write(self) -> None:
        """Sets :attr:`row`, and writes it to the run folder: tau, mean loss of alpha, costs, entropy (nats), probabilities."""
        probabilities = self.supernet.probabilities(self.relaxation)
        entropies = list(arch_statistics.entropies_of(probabilities, self.supernet.frozen).values())
        losses, self._arch_losses = self._arch_losses, []
        self.row = {
            "arch/loss": float(torch.stack(losses).mean()) if losses else None,
            "search/tau": float(self.tau(self._moment.progress)),
            "search/entropy": sum(entropies) / len(entropies) if entropies else None,
            **self.costs.expected(self._sampling.state(self._moment.progress).probabilities),
            **arch_statistics.probability_scalars(probabilities),
        }
        if (entropy := self.row["search/entropy"]) is not None:
            self.tau.observe(entropy, self._moment.progress)
        if self.run is not None and process_rank() == 0:
            self.run.write(self.num_steps_done, self.row)

    def state_dict(self) -> dict[str, Any]:
        """Alpha, its optimizer and the number of steps; the weights belong to the loop."""
        alpha = {key: value for key, value in self.supernet.state_dict().items() if not key.startswith("network.")}
        return {
            "alpha": alpha,
            "tau": self.tau.state_dict(),
            "relaxation": self.relaxation.state_dict(),
            "schedules": self._schedules.state_dict(),
            "num_steps_done": self.num_steps_done,
            "tables": self.costs.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken; raises ValueError for a state of other choices."""
        weights = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        self.supernet.load_state_dict({**weights, **state["alpha"]})
        self.tau.load_state_dict(state["tau"])
        self.relaxation.load_state_dict(state["relaxation"])
        self.num_steps_done, self._version = state["num_steps_done"], None
        self._loaded = dict(state)  # the optimizer's state follows when the devices are known

    @property
    def _moment(self) -> Moment:
        done = self.num_steps_done
        return Moment(done, self._schedules.plans["run"](done), done < self.warmup_steps, process_rank())

    def _begin(self) -> None:
        """Moves alpha to the device of the network, restores the optimizer, and checks that only it has changed alpha."""
        alpha = self.supernet.alpha
        device = next((weight.device for weight in self.network.parameters()), alpha.device)
        if alpha.device != device:
            for part in (self.supernet, self.tau, self.relaxation):
                part.to(device)
        if self._loaded:
            state, self._loaded = self._loaded, {}
            self._schedules.load_state_dict(state["schedules"], self.num_steps_done)
            self.costs.load(state["tables"], self.supernet)
        if self._version not in (None, alpha._version):
            raise ValueError(
                "alpha was changed outside of arch_step: an optimizer of the loop holds it; give it network.parameters()"
            )
        self._version = alpha._version
        if self.run is not None and process_rank() == 0:
            self.run.begin(self.num_steps_done)
        self.costs.tabulate(self.supernet)

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """Makes the cost tables from the arguments of the network's first call."""
        with self.costs.watching(self.network):
            yield
        self.costs.tabulate(self.supernet)
