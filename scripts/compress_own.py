"""Derive strategies on the trained network as it is, without a search, for scripts/compress.py."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from compress_training import Samples
from scipy.stats import kendalltau
from torch import Tensor, nn

import nas
from nas.costs import count_macs
from nas.costs.limits import Limit
from nas.costs.tabulate import CostModel
from nas.derive import BlockScores, DeriveStrategy, Evolution, Searched
from nas.derive.fine_tuned import tuned_score
from nas.derive.inherited import InheritedScore
from nas.derive.pool import draw
from nas.io.json_file import read_json, write_json
from nas.relaxations import GumbelSoftmax
from nas.tasks import Classification
from search_spaces.converted import Converted

if TYPE_CHECKING:
    from compress_methods import Job

NUM_SCORED = 1_000
"""Number of training images of each split that a strategy scores with."""
MAX_DRAWS = 20_000
STEPS_BEFORE = (0, 1, 8, 32)
"""Numbers of training steps before a score whose rank correlations are compared."""


def block_scores(job: Job) -> nn.Module:
    """Every candidate scored alone, and the exact program."""
    return derived(job, BlockScores())


def block_scores_tuned(job: Job) -> nn.Module:
    """Every candidate scored alone after eight training steps, and the exact program."""
    return derived(job, BlockScores(num_steps=8))


def evolution(job: Job) -> nn.Module:
    """Evolution of 128 architectures with the parent's weights."""
    return derived(job, Evolution(num=128, population=32))


def random_one(job: Job) -> nn.Module:
    """A random architecture that uses at least nine tenths of the limit."""
    return next(draws(searched(job), job)).network


class Drawn(NamedTuple):
    """An architecture, and its network with the parent's weights."""

    choices: dict[str, Any]
    network: nn.Module


def draws(state: Searched, job: Job) -> Iterator[Drawn]:
    """Different random architectures that use at least nine tenths of the limit."""
    (limit,) = state.limits
    known: list[dict[str, Any]] = []
    for choices in islice(draw(state, random.Random(job.seed)), MAX_DRAWS):
        if 0.9 * limit.max <= limit.table.of(choices) <= limit.max and choices not in known:
            known.append(choices)
            yield Drawn(choices, state.supernet.derive(choices))
    raise ValueError(f"of {MAX_DRAWS} random architectures, only {len(known)} use nine tenths of the limit")


def rank_correlations(job: Job, number: int, judged: Callable[[nn.Module], float]) -> dict[int, float]:
    """Kendall's tau of scores with the judgments of random architectures: number of training steps before the score -> tau."""
    state = searched(job)
    score = InheritedScore(state)
    drawn = list(islice(draws(state, job), number))
    judgments = [judged(each.network) for each in drawn]
    return {
        steps: kendalltau([scored(score, each.choices, steps) for each in drawn], judgments).statistic
        for steps in STEPS_BEFORE
    }


def scored(score: InheritedScore, choices: dict[str, Any], steps: int) -> float:
    """The negative loss of an architecture after `steps` training steps."""
    return tuned_score(score, choices, num_steps=steps, lr=0.001) if steps else score(choices)


def derived(job: Job, strategy: DeriveStrategy) -> nn.Module:
    """The network that a strategy finds in the converted parent, without a search; later limits use the scores of the first one."""
    state, path = searched(job), job.folder.parent / f"scores_{job.seed}.json"
    if path.exists():
        state.kept.update(read_json(path, ""))
    found = strategy.genotype(state)
    write_json(path, state.kept)
    return state.supernet.derive(found)


def searched(job: Job) -> Searched:
    """The converted parent as a state of a search in which every architecture is equally probable."""
    space = Converted(lambda: job.parent, input_shape=job.example.shape[1:])
    supernet = nas.Supernet(space.network())
    table = CostModel(supernet, (job.example,)).table("macs", count_macs)
    sample = job.sample(2 * NUM_SCORED)
    middle = len(sample.labels) // 2
    return Searched(
        supernet=supernet,
        relaxation=GumbelSoftmax(),
        space=space,
        limits=[Limit(table, job.max_macs)],
        task=Classification(int(sample.labels.max()) + 1),
        weight_batches=lambda: batches(sample, slice(0, middle)),
        arch_batches=lambda: batches(sample, slice(middle, None)),
        seed=job.seed,
    )


def batches(sample: Samples, part: slice) -> Iterator[tuple[Tensor, Tensor]]:
    """A part of the samples."""
    return zip(*(torch.split(tensor[part], 125) for tensor in sample), strict=True)
