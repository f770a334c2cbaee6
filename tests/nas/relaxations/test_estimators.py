import pytest
import torch

from nas.relaxations import GumbelSoftmax, SampledPath
from nas.relaxations.estimators import exact_gradient, gradient_draws, leave_one_out_draws, quadratic


def test_exact_gradient_of_a_linear_objective_is_that_of_the_softmax():
    generator = torch.Generator().manual_seed(0)
    logits, values = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator).unbind(0)
    logits = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad((torch.softmax(logits, -1) * values).sum(), logits)
    exact = exact_gradient(lambda w: (w * values).sum((1, 2)), logits)
    torch.testing.assert_close(exact, expected, atol=1e-12, rtol=0)  # float64


def test_exact_gradient_of_a_quadratic_is_the_mean_of_score_function_draws():
    """E[f(D) d log p(D)], drawn without any relaxation."""
    logits, objective = torch.tensor([[0.2, -0.4, 1.0], [0.0, 0.5, -1.0]], dtype=torch.float64), quadratic(2, 3)
    p = torch.softmax(logits, -1)
    draws = torch.stack(
        [torch.multinomial(row, 300_000, True, generator=torch.Generator().manual_seed(i)) for i, row in enumerate(p)],
        1,
    )
    one_hot = torch.nn.functional.one_hot(draws, 3).double()
    score = objective(one_hot)[:, None, None] * (one_hot - p)
    error = score.std(0) / 300_000**0.5
    assert ((score.mean(0) - exact_gradient(objective, logits)).abs() < 4 * error).all()  # 6 components


@pytest.mark.parametrize("active", [False, True])
def test_draws_are_those_of_single_calls_and_idle_candidates_contribute_nothing(active):
    logits, objective = torch.tensor([[0.2, -0.4, 1.0]], dtype=torch.float64), quadratic(1, 3)
    relaxation = SampledPath() if active else GumbelSoftmax()
    draws = gradient_draws(relaxation, objective, logits, 0.8, 1, torch.Generator().manual_seed(2))
    again = logits.clone().requires_grad_()
    weights = relaxation(again[None], 0.8, generator=torch.Generator().manual_seed(2))
    upstream = weights.detach().requires_grad_()
    (dw,) = torch.autograd.grad(objective(upstream).sum(), upstream)
    if active:
        dw = torch.where(weights.detach() > 0, dw, 0.0)
    (expected,) = torch.autograd.grad((weights * dw).sum(), again)
    torch.testing.assert_close(draws[0], expected, atol=1e-12, rtol=0)  # float64


@pytest.mark.parametrize("num_paths", [2, 5])
def test_the_leave_one_out_score_function_is_unbiased_and_more_paths_spread_less(num_paths):
    logits = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    objective = quadratic(2, 3)
    draws = leave_one_out_draws(objective, logits, num_paths, 40_000, torch.Generator().manual_seed(1))
    exact = exact_gradient(objective, logits)
    error = draws.std(0) / 40_000**0.5
    assert bool(((draws.mean(0) - exact).abs() < 5 * error).all())  # 5 standard errors of 6 numbers
    spread = leave_one_out_draws(objective, logits, 10, 40_000, torch.Generator().manual_seed(2)).var(0).sum()
    assert float(spread) < float(draws.var(0).sum())
