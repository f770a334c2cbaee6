"""How stable the choice of a learned distribution is."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nas.alpha import Joint

NUM_HALVES = 4
NUM_STEPS = 100


def mode_of_scores(
    joint: Joint, paths: Tensor, scores: Tensor, optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
) -> list[int]:
    """The most probable path of the same kind of distribution, if it learned from these paths alone.

    The distribution starts with equally probable candidates. It minimizes, at tau 1, the mean score in units of its standard deviation,
    less the entropy; both are sums over `paths`.

    Shape:
        - paths: (P, E) int64
        - scores: (P,)
    """
    kind = copy.deepcopy(joint.kind)
    rows = nn.Parameter(torch.zeros_like(joint.rows))
    parameters = [rows, *kind.parameters()]
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    fresh = joint._replace(kind=kind, rows=rows, tau=1.0)
    scaled = (scores - scores.mean()) / scores.std().clamp_min(1e-12)
    updates = optimizer(parameters)
    for _ in range(NUM_STEPS):
        logs = torch.log_softmax(fresh.log_weight(paths), 0)
        updates.zero_grad()
        (logs.exp() * (scaled + logs)).sum().backward()
        updates.step()
    return fresh.most_probable(1)[0][0].tolist()


def stability(
    joint: Joint,
    scored: Sequence[tuple[Sequence[int], float]],
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    moments: Sequence[Mapping[str, Any]],
    seed: int,
) -> dict[str, Any]:
    """How stable the most probable architecture is.

    Keys: ``changed_late``: whether it changed over the last tenth of the search; ``num_halves``: number of random halves of the scored
    paths from which the distribution was learned again; ``halves_agree``: in how many of them the same path is most probable.

    Args:
        joint: The distribution at the end of the search.
        scored: Paths with their scores; with fewer than 4, no halves are made.
        optimizer: Makes the optimizer of alpha.
        moments: The history of :class:`nas.callbacks.distribution.DistributionHistory`.
        seed: The run's seed.
    """
    mode = joint.most_probable(1)[0][0].tolist()
    late = [m["most_probable"][0]["choices"] for m in moments if m["batch"] >= 0.9 * moments[-1]["batch"]]
    result = {"changed_late": any(choices != late[-1] for choices in late), "num_halves": 0, "halves_agree": 0}
    if len(scored) < 4:
        return result
    source = random.Random(seed)
    for _ in range(NUM_HALVES):
        half = source.sample(list(scored), len(scored) // 2)
        paths = torch.tensor([path for path, _ in half], device=joint.rows.device)
        scores = torch.tensor([score for _, score in half], device=joint.rows.device)
        result["halves_agree"] += mode_of_scores(joint, paths, scores, optimizer) == mode
        result["num_halves"] += 1
    return result


def stability_text(stability: Mapping[str, Any]) -> str:
    """The result of :func:`stability` in one sentence."""
    changed = "changed" if stability["changed_late"] else "did not change"
    text = f"the most probable architecture {changed} in the last tenth of the search"
    if (num := stability["num_halves"]) == 0:
        return text
    return f"{text}, and is the same for {stability['halves_agree']} of {num} random halves of the scored architectures"
