"""A search inside a training loop of your own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from nas.relaxations import GumbelSoftmax, OpWeights, Relaxation
from nas.runs.own.costs import OwnCosts
from nas.runs.own.folder import OwnRun
from nas.runs.own.network import described, space_of, supernet_of
from nas.supernet.base import present_context
from nas.supernet.network_space import NetworkSpace
from nas.supernet.running import around_calls, one_call, running, without_hooks
from nas.tau import Exponential, TauSchedule
from nas.training import arch_statistics
from nas.training.arch_trainer import ArchTrainer
from nas.training.lr_schedules import LRSchedule
from nas.training.sampling import Sampling
from nas.training.schedules import OptimizerFactory

ADAM = partial(Adam, lr=0.03, betas=(0.5, 0.999))


class Searcher:
    """Searches the choices of a network inside your own loop, which trains the weights and calls the network as before.

    Every draw is keyed by (seed, purpose, step), so that a loop that restores :meth:`state_dict` draws the same numbers.

    Args:
        network: The network with its choices, or a class or ``functools.partial`` that makes it. The optimizer of the loop trains
            ``searcher.network.parameters()``; alpha is not among them.
        num_steps: Number of steps of the loop, over which tau is annealed.
        relaxation: See :class:`nas.SearchModule`, as for the next arguments; default straight-through Gumbel-Softmax.
        tau: Default exponential from 5 to 0.2.
        alpha: Default :class:`nas.alpha.Factorised`.
        bilevel: :class:`nas.bilevel.FirstOrder` (default) or :class:`nas.bilevel.ScoreFunction`.
        arch_optimizer: Default Adam with a rate of 0.03.
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
            raise ValueError(f"warmup_steps must lie in [0, {num_steps}): {warmup_steps} would never train alpha")
        if log_every is not None and log_every < 1:
            raise ValueError(f"log_every must be at least 1, got {log_every}")
        self.supernet = supernet_of(network, alpha)
        self.network = self.supernet.network
        self.relaxation = relaxation if relaxation is not None else GumbelSoftmax(hard=True)
        self.tau = tau if tau is not None else Exponential(start=5.0, end=0.2)
        self.bilevel = bilevel if bilevel is not None else FirstOrder()
        if not isinstance(self.bilevel, Alternating):
            raise ValueError(f"{type(self.bilevel).__name__} trains the weights too; use FirstOrder or ScoreFunction")
        self.num_steps, self.warmup_steps, self.seed = num_steps, warmup_steps, seed
        self.log_every = max(1, num_steps // 100) if log_every is None else log_every
        self.row: dict[str, float | None] = {}
        self.costs = OwnCosts(limits or {}, inputs)
        self.run: OwnRun | None = None
        if out is not None:
            values = described(
                made_by or space_of(network),
                self.supernet,
                seed,
                relaxation=self.relaxation,
                tau=self.tau,
                alpha=self.supernet.distribution,
                bilevel=self.bilevel,
                num_steps=num_steps,
                warmup_steps=warmup_steps,
                cost={target.name: {"max": target.max} for target in self.costs.targets},
            )
            self.run = OwnRun(out, values)
        terms = [*regularizers, self.costs]
        sampling = Sampling(
            self.supernet, self.relaxation, self.tau, regularizers=terms, warmup_paths=warmup_paths, seed=seed
        )
        self._arch = ArchTrainer(sampling, self.bilevel, arch_optimizer, arch_schedule, num_steps, warmup_steps)
        self._arch_losses: list[Tensor] = []
        self._mode: tuple[Any, OpWeights] | None = None
        self._hooks = around_calls(self.network, self._if_alone)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """One step of the loop: calls of the network inside the block run with one draw of op weights. The draw passes no gradient."""
        self._begin()
        sample = self._arch.sampling.draw("weight", self._arch.moment, 1)
        sample = sample._replace(weights=sample.weights.detach())
        with self.costs.watching(self.supernet), running(self.supernet, sample):
            yield
        self.costs.check_known()
        self._arch.advance()
        if self.num_steps_done % self.log_every == 0:
            self.write()

    def arch_step(self, loss: Callable[..., Tensor], *batch: Any) -> Tensor | None:
        """Trains alpha on a loss, unless the warm-up lasts. The gradients of the weights do not change.

        Args:
            loss: Computes the loss of a batch that does not train the weights, by calling the network.
            *batch: Arguments of `loss`.

        Returns:
            The loss, a mean over all processes; None during the warm-up.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        self._begin()
        if self._arch.moment.warm_up:
            return None
        with self.costs.watching(self.supernet):
            self._arch_losses.append(self._arch.step(partial(loss, *batch)))
        return self._arch_losses[-1]

    def around(
        self, train_step: Callable[..., Any], loss: Callable[..., Tensor], batches: Iterator[Any]
    ) -> Callable[..., Any]:
        """A training step with a search around it: :meth:`arch_step` on the next batch, then the step under :meth:`sampled`.

        Args:
            train_step: The step of a loop that others have written, such as ``training_step`` of a ``transformers.Trainer``.
            loss: Computes the loss of one of `batches`, by calling the network.
            batches: Batches that do not train the weights, without end.
        """

        def step(*args: Any, **kwargs: Any) -> Any:
            self.arch_step(loss, next(batches))
            with self.sampled():
                return train_step(*args, **kwargs)

        return step

    @contextmanager
    def most_probable(self) -> Iterator[None]:
        """Calls of the network, or of parts of it, inside the block run the most probable architecture.

        It is within the limits as soon as their costs are known. Calls of the whole network in eval mode do so outside of a block too.
        """
        with running(self.supernet, self._most_probable()):
            yield

    def _most_probable(self) -> OpWeights:
        alpha = self.supernet.alpha
        key = (alpha._version, alpha.device, float(self.supernet.distribution.temperature), bool(self.costs.tables))
        if self._mode is None or self._mode[0] != key:
            self._mode = key, self.supernet.one_hot(Argmax().genotype(self.searched), run_all=False)
        return self._mode[1]

    def _if_alone(self) -> AbstractContextManager[None]:
        """The block of a call of the network: validation outside of all blocks, as in the code of the user."""
        if present_context() is not None or self.network.training:
            return nullcontext()
        return one_call(self.supernet, self._most_probable())

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

    def detach(self) -> None:
        """Ends the search: calls of the network in eval mode no longer run the most probable architecture."""
        for handle in self._hooks:
            handle.remove()

    def derive(self, batches: Iterable[Any] = ()) -> nn.Module:
        """The plain network of the most probable architecture within the limits, with the trained weights.

        Args:
            batches: (inputs, target) batches that recalibrate batch norms, whose statistics otherwise mix architectures.
        """
        network = without_hooks(self.supernet.derive(self.genotype))
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
            self.run.begin(self.num_steps_done)
            if self.run.written[0] < self.num_steps_done:
                self.write()
            measured = {name: float(value) for name, value in metrics.items()}
            self.run.finish(self.searched, self.genotype, found, self.costs, measured)
        return found

    @torch.no_grad()
    def write(self) -> None:
        """Sets :attr:`row`, and writes it to the run folder: tau, mean loss of alpha, costs, entropy (nats), probabilities."""
        losses, self._arch_losses = self._arch_losses, []
        progress = self._arch.moment.progress
        self.row = {
            "arch/loss": float(torch.stack(losses).mean()) if losses else None,
            "search/tau": float(self.tau(progress)),
            **self.costs.expected(self._arch.sampling.state(progress).probabilities),
            **arch_statistics.supernet_scalars(self.supernet, self.relaxation),
        }
        if (entropy := self.row["search/entropy"]) is not None:
            self.tau.observe(entropy, progress)
        if self.run is not None and process_rank() == 0:
            self.run.write(self.num_steps_done, self.row)

    @property
    def num_steps_done(self) -> int:
        """Number of steps taken."""
        return self._arch.num_steps_done

    def state_dict(self) -> dict[str, Any]:
        """Alpha, its optimizer and the number of steps; the weights belong to the loop."""
        return {**self._arch.state_dict(), "tables": self.costs.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken; raises ValueError for a state of other choices."""
        self._arch.load_state_dict(state)
        self.costs.load(state["tables"], self.supernet)

    def _begin(self) -> None:
        self._arch.begin(self.network)
        if self.run is not None and process_rank() == 0:
            self.run.begin(self.num_steps_done)
        self.costs.tabulate(self.supernet)
