"""Checks that the parts of a search fit together, before it starts."""

from __future__ import annotations

from nas.bilevel import Bilevel
from nas.paths import Paths
from nas.relaxations import Relaxation


def check_method(
    bilevel: Bilevel,
    relaxation: Relaxation,
    *,
    checkpoint_candidates: bool,
    compiled: bool,
    num_micro_batches: int,
    warmup_epochs: int,
    warmup_paths: Paths | None,
    average_decay: float | None,
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
    if bilevel.weights_rest and (warmup_epochs == 0 or average_decay is not None):
        raise ValueError(
            f"{name} trains the weights in the warm-up alone, and scores them: set warmup_epochs above 0 and average_decay to null"
        )
    if bilevel.differentiates_weight_loss and warmup_paths is not None and warmup_paths.follows_alpha:
        raise ValueError(
            f"{name} takes the gradient of alpha on the train split, where {type(warmup_paths).__name__} leaves none; "
            "use nas.paths.Fair"
        )
