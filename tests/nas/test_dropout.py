import itertools
import math

import pytest
import torch
from torch import nn

import nas
from nas.dropout import RELAXATION, ConcreteDropout, dropout_penalty, fixed, monte_carlo, rates


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(rate=0.25):
    torch.manual_seed(0)
    return nn.Sequential(ConcreteDropout(nn.Linear(4, 3), rate), nn.ReLU(), nn.Linear(3, 2))


def draws(supernet, x, tau, number):
    supernet.train()
    return torch.stack(
        [supernet(x, op_weights=supernet.sample(RELAXATION, tau, generator=generator(i))) for i in range(number)]
    )


def test_cold_draws_are_ordinary_dropout_at_the_rate():
    """The output of a linear layer has the mean and the variance that inverted dropout has in closed form."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    supernet = nas.Supernet(ConcreteDropout(layer, 0.3).double())
    x = torch.randn(1, 4, dtype=torch.float64, generator=generator())
    outputs = draws(supernet, x, 1e-3, 4000)[:, 0]
    standard_error = outputs.std(0) / 4000**0.5
    assert ((outputs.mean(0) - layer(x)[0]).abs() < 4 * standard_error).all()
    variance = (layer.weight.square() * x.square()).sum(1) * 0.3 / 0.7
    torch.testing.assert_close(outputs.var(0), variance.detach(), rtol=0.1, atol=0)  # 4,000 draws: 4 standard errors


def test_eval_mode_drops_nothing_and_needs_no_supernet():
    module = network().eval()
    x = torch.randn(5, 4, generator=generator())
    assert torch.equal(module(x), module[2](module[0].layer(x).relu()))
    with pytest.raises(RuntimeError, match="outside a supernet"):
        module.train()(x)


def test_the_penalty_by_hand_and_its_gradient_by_finite_differences():
    module = network(0.2).double()
    weight = module[0].layer.weight.detach()
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    expected = (0.5**2 * 0.8 * float(weight.square().sum()) / 2 - 4 * entropy) / 10
    assert float(dropout_penalty(module, 10, length=0.5).detach()) == pytest.approx(expected, rel=1e-6)
    assert float(dropout_penalty(module, 10, length=0.5, strength=3).detach()) == pytest.approx(3 * expected, rel=1e-6)
    assert dropout_penalty(nn.Linear(2, 2), 10) == 0

    def penalty(log_odds):
        return torch.func.functional_call(_Penalty(module), {"module.0.log_odds": log_odds}, ())

    assert torch.autograd.gradcheck(penalty, torch.tensor(-0.7, dtype=torch.float64, requires_grad=True))


class _Penalty(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self):
        return dropout_penalty(self.module, 10, length=0.5)


def test_the_rate_gets_a_gradient_through_the_draws():
    """In closed form for a linear layer and a squared loss: d/dp of the variance p / (1 - p) times the sum of squares."""
    torch.manual_seed(0)
    dropout = ConcreteDropout(nn.Linear(4, 1, bias=False), 0.4).double()
    supernet = nas.Supernet(dropout)
    x = torch.randn(4, dtype=torch.float64, generator=generator()).expand(2000, 4)
    target = dropout.layer(x).detach()
    loss = sum(((draw - target) ** 2).mean() for draw in draws(supernet, x, 0.05, 20)) / 20
    (gradient,) = torch.autograd.grad(loss, dropout.log_odds)
    squares = float((dropout.layer.weight.detach().square() * x[:1].square()).sum())
    by_log_odds = squares / (1 - 0.4) ** 2 * 0.4 * 0.6
    assert float(gradient) == pytest.approx(by_log_odds, rel=0.15)  # tau 0.05 is not 0; 40,000 draws


def test_what_is_fixed_is_plain_and_the_same():
    module = network(0.25)
    plain = fixed(module)
    x = torch.randn(5, 4, generator=generator())
    assert torch.equal(plain.eval()(x), module.eval()(x)) and rates(module) == [pytest.approx(0.25)]
    assert [type(part).__name__ for part in plain[0]] == ["Dropout", "Linear"] and plain[0][0].p == pytest.approx(0.25)
    assert not any(isinstance(part, ConcreteDropout) for part in plain.modules())
    assert isinstance(fixed(ConcreteDropout(nn.Conv2d(2, 3, 1)))[1], nn.Conv2d)
    plain[0][1].weight.data.zero_()
    assert module[0].layer.weight.abs().sum() > 0  # a copy


def test_monte_carlo_tends_to_the_mean_over_all_masks():
    plain = fixed(network(0.25))
    plain.train()
    x = 8 * torch.randn(3, 4, generator=generator())  # far apart, so that masks matter
    expected = torch.zeros(3, 2)
    with torch.no_grad():
        for mask in itertools.product((0.0, 1.0), repeat=4):
            chance = math.prod(0.75 if kept else 0.25 for kept in mask)
            hidden = plain[0][1](x * torch.tensor(mask) / 0.75)
            expected += chance * torch.softmax(plain[2](plain[1](hidden)), -1)
    torch.manual_seed(0)
    found = monte_carlo(plain, x, 4000)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # four standard errors of 4,000 draws at most
    assert plain.training and plain[0][0].training
    with torch.no_grad():
        assert (
            torch.softmax(plain.eval()(x), -1) - expected
        ).abs().max() > 0.03  # nothing dropped is beyond the tolerance


@pytest.mark.parametrize(
    ("layer", "rate", "message"),
    [
        (nn.Linear(2, 2), 0.0, "between 0 and 1"),
        (nn.Linear(2, 2), 1.0, "between 0 and 1"),
        (nn.ReLU(), 0.1, "ReLU has no"),
    ],
)
def test_wrong_arguments(layer, rate, message):
    with pytest.raises(ValueError, match=message):
        ConcreteDropout(layer, rate)
