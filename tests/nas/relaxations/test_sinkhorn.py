import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from nas.relaxations import GumbelSinkhorn, gumbel_noise, hard_permutation, sinkhorn


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def permutations(n):
    """All permutation matrices (n!, n, n)."""
    return torch.stack([torch.eye(n, dtype=torch.float64)[list(order)] for order in itertools.permutations(range(n))])


def test_rows_and_columns_sum_to_one():
    result = sinkhorn(draw(6, 5, 5), 100)
    assert (result > 0).all()
    for dim in (-1, -2):
        torch.testing.assert_close(result.sum(dim), torch.ones(6, 5, dtype=torch.float64), atol=1e-9, rtol=0)
    # scaling rows and columns of exp(scores) changes nothing: the limit depends on ratios of 2 x 2 minors only
    scores = draw(3, 3)
    moved = scores + draw(3, 1, seed=1) + draw(1, 3, seed=2)
    torch.testing.assert_close(sinkhorn(scores, 300), sinkhorn(moved, 300), atol=1e-9, rtol=0)


def test_two_by_two_is_the_logistic_function():
    """Closed form: the diagonal is sigmoid of half the difference of both diagonals' sums."""
    scores = draw(2, 2)
    expected = torch.sigmoid((scores[0, 0] + scores[1, 1] - scores[0, 1] - scores[1, 0]) / 2)
    torch.testing.assert_close(sinkhorn(scores, 200)[0, 0], expected, atol=1e-12, rtol=0)


def test_the_limit_of_low_tau_is_the_best_permutation_by_enumeration():
    for seed in range(10):
        scores = draw(4, 4, seed=seed)
        every = permutations(4)
        best = every[(every * scores).sum((1, 2)).argmax()]
        assert torch.equal(hard_permutation(scores), best)
        torch.testing.assert_close(sinkhorn(scores / 0.005, 2000), best, atol=0.05, rtol=0)


def test_batches_are_assigned_as_scipy_does():
    scores = draw(2, 3, 6, 6)
    result = hard_permutation(scores)
    for i, j in itertools.product(range(2), range(3)):
        rows, columns = linear_sum_assignment(scores[i, j].numpy(), maximize=True)
        assert result[i, j][rows, columns].eq(1).all() and result[i, j].sum() == 6


def test_the_gradient_by_finite_differences():
    scores = draw(2, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: sinkhorn(s, 5), scores)

    def sample(s):
        return GumbelSinkhorn(5)(s, 0.7, generator=torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(sample, scores)


def test_hard_samples_are_permutations_with_the_soft_gradient():
    scores = draw(7, 4, 4).requires_grad_()
    soft, hard = (
        GumbelSinkhorn(hard=h)(scores, 0.5, generator=torch.Generator().manual_seed(1)) for h in (False, True)
    )
    noise = gumbel_noise(scores, torch.Generator().manual_seed(1))
    assert torch.equal(hard.detach(), hard_permutation(scores.detach() + noise))
    weights = draw(7, 4, 4, seed=2)
    (a,), (b,) = (torch.autograd.grad((x * weights).sum(), scores) for x in (soft, hard))
    assert torch.equal(a, b)


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"square logits \(..., n, n\), got \(2, 3\)"):
        GumbelSinkhorn()(torch.zeros(2, 3), 1.0)
    with pytest.raises(ValueError, match="takes no mask"):
        GumbelSinkhorn()(torch.zeros(2, 2), 1.0, mask=torch.tensor([[True, False], [True, True]]))
    with pytest.raises(ValueError, match="num_iterations must be at least 1"):
        GumbelSinkhorn(0)
    torch.testing.assert_close(GumbelSinkhorn().probabilities(torch.zeros(3, 3)), torch.full((3, 3), 1 / 3))
