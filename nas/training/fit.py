"""Checks that the parts of a search fit together, before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from nas.alpha import Joint
from nas.alpha.base import Undirected
from nas.alpha.joint import MAX_JOINT
from nas.bilevel import Bilevel
from nas.paths import Paths
from nas.regularizers import Regularizer
from nas.relaxations import Relaxation
from nas.tasks import Task
from nas.tau import TauSchedule


def check_tau(tau: TauSchedule, task: Task) -> None:
    """Raises ValueError if the schedule watches a diversity that the task does not measure."""
    if tau.needs_diversity and "diversity" not in task.metrics():
        raise ValueError(
            f"{type(tau).__name__} needs a task with a metric named diversity; {type(task).__name__} has none"
        )


def check_method(
    bilevel: Bilevel,
    relaxation: Relaxation,
    joint: Joint,
    *,
    checkpoint_candidates: bool,
    compiled: bool,
    num_micro_batches: int,
    warmup_epochs: int,
    warmup_paths: Paths | None,
    average_decay: float | None,
    regularizers: Sequence[Regularizer],
) -> None:
    """Raises ValueError if the method cannot work with the other settings of :class:`nas.SearchModule`."""
    name = type(bilevel).__name__
    if checkpoint_candidates and not bilevel.recomputes:
        raise ValueError(f"{name} cannot recompute candidates: set checkpoint_candidates to false")
    if num_micro_batches > 1 and not bilevel.accumulates:
        raise ValueError(f"num_micro_batches must be 1 with {name}")
    if compiled and relaxation.num_active is not None:
        raise ValueError(
            f"compile: {type(relaxation).__name__} runs different candidates at each step; set compile to off"
        )
    if compiled and (checkpoint_candidates or not bilevel.recomputes):
        who = "checkpoint_candidates" if checkpoint_candidates else name
        raise ValueError(f"compile: {who} needs more than the first gradient of a compiled graph; set compile to off")
    num_weight_epochs = bilevel.num_weight_epochs(warmup_epochs)
    if num_weight_epochs is not None:
        if num_weight_epochs < max(1, warmup_epochs):
            raise ValueError(
                f"{name} scores weights that were trained before: set warmup_epochs above 0, or weight_epochs to at least warmup_epochs"
            )
        if average_decay is not None:
            raise ValueError(f"{name} scores the current weights: set average_decay to null")
    if isinstance(joint.kind, Undirected) and not joint.is_enumerable:
        follows = warmup_paths is None or warmup_paths.follows_alpha
        if num_weight_epochs is None or num_weight_epochs > warmup_epochs or follows or regularizers:
            raise ValueError(
                f"{type(joint.kind).__name__} has no exact sums over more than {MAX_JOINT:,} paths: set bilevel to "
                "nas.bilevel.ScoreFunction with weight_epochs null, warmup_paths to nas.paths.Fair and regularizers to []"
            )
    if bilevel.differentiates_weight_loss and warmup_paths is not None and warmup_paths.follows_alpha:
        raise ValueError(
            f"{name} takes the gradient of alpha on the train split, where {type(warmup_paths).__name__} leaves none; "
            "use nas.paths.Fair"
        )
