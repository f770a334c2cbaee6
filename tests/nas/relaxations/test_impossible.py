"""Logits of minus infinity, and weights that underflow: no NaN in value or gradient."""

import itertools

import pytest
import torch

from nas.relaxations import (
    BinaryConcrete,
    Dirichlet,
    GumbelRao,
    GumbelSinkhorn,
    GumbelSoftmax,
    ReinMax,
    SampledPath,
    Softmax,
    TwoPath,
)

INF = float("inf")
ROWS = {
    "impossible": [0.0, 1.0, -INF],
    "far": [0.0, -200.0, 300.0],
    "one of 64": [-INF] * 63 + [1.0],
    "64": [0.3 * i for i in range(64)],
}
RELAXATIONS = [Softmax(), GumbelSoftmax(), GumbelSoftmax(hard=True), SampledPath(), ReinMax(), GumbelRao(), Dirichlet()]


def drawn(relaxation, values, tau, dtype, mask=None):
    logits = torch.tensor(values, dtype=dtype).requires_grad_()
    tau = torch.tensor(tau, requires_grad=True)
    weights = relaxation(logits, tau, mask=mask, generator=torch.Generator().manual_seed(0))
    (weights * torch.arange(float(weights.numel())).reshape(weights.shape)).sum().backward()
    return weights, logits.grad, tau.grad, relaxation.probabilities(logits.detach(), mask)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: type(r).__name__)
def test_everything_stays_finite(relaxation, row):
    for case in itertools.product((1.0, 1e-3), (torch.float32, torch.float64, torch.float16)):
        for result in drawn(relaxation, ROWS[row], *case):
            assert result is None or bool(torch.isfinite(result).all()), case


@pytest.mark.parametrize("relaxation", [*RELAXATIONS[:-1], TwoPath()], ids=lambda r: type(r).__name__)
def test_minus_infinity_is_a_mask(relaxation):
    values = [0.5, 1.0, -INF, 0.25]
    masked = drawn(relaxation, [0.5, 1.0, 7.0, 0.25], 0.7, torch.float32, torch.tensor([True, True, False, True]))
    infinite = drawn(relaxation, values, 0.7, torch.float32)
    assert masked[0][2] == infinite[0][2] == 0 and infinite[1][2] == 0
    assert torch.equal(masked[0], infinite[0]) and torch.equal(masked[3], infinite[3])


@pytest.mark.parametrize("hard", [False, True])
def test_binary_and_permuted_ones_stay_finite(hard):
    square = [[0.0, 1.0, -INF], [0.0, 1.0, 2.0], [-INF, 1.0, 2.0]]
    for relaxation, values in ((BinaryConcrete(hard), [[0.0, -INF], [-INF, 0.0]]), (GumbelSinkhorn(hard=hard), square)):
        for result in drawn(relaxation, values, 0.01, torch.float32):
            assert result is None or bool(torch.isfinite(result).all())


def test_a_row_without_any_candidate_is_refused():
    with pytest.raises(ValueError, match="removes every candidate"):
        GumbelSoftmax()(torch.tensor([[0.0, 1.0], [-INF, -INF]]), 1.0)
