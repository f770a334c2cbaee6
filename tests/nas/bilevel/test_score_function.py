"""The step of the score function: its gradient against the estimate written out path by path."""

import math
from types import SimpleNamespace

import pytest
import torch

from nas.alpha import Joint, Pairwise
from nas.bilevel import ScoreFunction

SIZES = (2, 3)
LOSSES = {(0, 1): 0.5, (1, 2): 2.0, (1, 0): 0.25}
SPREAD, TAU = 0.7, 1.5


class Step:
    """Paths, losses and a distribution that are given; notes what is descended."""

    arch_moves = True
    spread = SPREAD
    tau = torch.tensor(TAU, dtype=torch.float64)

    def __init__(self, joint, paths, weights_move):
        self.joint, self.paths, self.weights_move = joint, paths, weights_move
        self.descended = []

    def draw_paths(self, num):
        assert num == len(self.paths)
        return torch.tensor(self.paths)

    def path_losses(self, paths):
        return torch.tensor([LOSSES[tuple(path)] for path in paths.tolist()], dtype=torch.float64)

    def log_prob(self, paths):
        return self.joint.log_prob(paths)

    def arch_penalty(self):
        return torch.zeros(())

    def losses(self, level):
        return SimpleNamespace(level=level)

    def descend(self, loss, *levels):
        self.descended.append((levels, loss))


def made():
    kind = Pairwise()
    kind.build(SIZES)
    kind.double()
    generator = torch.Generator().manual_seed(0)
    kind.pairs.data = torch.randn(kind.pairs.shape, generator=generator, dtype=torch.float64)
    rows = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.tensor([[True, True, False], [True] * 3])
    return Joint(kind, rows, mask, SIZES, TAU), [rows, kind.pairs]


@pytest.mark.parametrize("weights_move", [False, True])
@pytest.mark.parametrize("factor", [0.0, 1.0, 0.4])
def test_a_step_is_the_leave_one_out_estimate_of_score_and_entropy(weights_move, factor):
    joint, parameters = made()
    paths = list(LOSSES)[: 2 if weights_move else 3]
    step = Step(joint, paths, weights_move)
    ScoreFunction(num_paths=3, entropy=factor).step(step)
    logs = [joint.log_prob(torch.tensor([path]))[0] for path in paths]
    # while the weights move, the first path has the lower loss; while they rest, scores are logs in units of their spread
    scores = [-1.0, 1.0] if weights_move else [math.log(LOSSES[path]) / SPREAD for path in paths]
    returns = [score + factor * TAU * log.item() for score, log in zip(scores, logs, strict=True)]
    expected = 0
    for i, log in enumerate(logs):
        others = [value for j, value in enumerate(returns) if j != i]
        expected = expected + (returns[i] - sum(others) / len(others)) * log / len(logs)
    levels, loss = step.descended[0]
    assert levels == ("arch",)
    for one, other in zip(*(torch.autograd.grad(x, parameters) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    rest = [levels for levels, _ in step.descended[1:]]
    assert rest == ([("weight",)] if weights_move else [])
