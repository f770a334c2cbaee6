import itertools
import math

import pytest
import torch
from torch import nn

import nas
from nas.dropout import RELAXATION, ConcreteDropout, UnitDropout, dropout_penalty, fixed, monte_carlo, rates


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
    found = monte_carlo(plain, x, 4000).mean
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # four standard errors of 4,000 draws at most
    assert plain.training and plain[0][0].training
    with torch.no_grad():
        assert (
            torch.softmax(plain.eval()(x), -1) - expected
        ).abs().max() > 0.03  # nothing dropped is beyond the tolerance


FORMS = [  # layer, per, size, shape of the rates, shape of an input
    (lambda: nn.Linear(4, 3), "layer", (), (), (5, 4)),
    (lambda: nn.Linear(4, 3), "unit", (), (4,), (5, 2, 4)),
    (lambda: nn.Linear(4, 3), "channel", (), (4,), (5, 4)),
    (lambda: nn.Conv1d(4, 6, 3), "layer", (), (), (5, 4, 7)),
    (lambda: nn.Conv2d(4, 6, 3, groups=2), "channel", (), (4, 1, 1), (5, 4, 7, 6)),
    (lambda: nn.Conv2d(4, 6, 3), "unit", (7, 6), (4, 7, 6), (5, 4, 7, 6)),
]


@pytest.mark.parametrize(("make", "per", "size", "rates_shape", "input_shape"), FORMS)
def test_draws_have_the_rates_of_their_units(make, per, size, rates_shape, input_shape):
    """Learned and fixed dropout, seen through a layer that is replaced by the identity, drop each element at its own rate."""
    dropout = ConcreteDropout(make(), 0.3, per, size)
    assert dropout.rate.shape == rates_shape and rates(dropout) == [pytest.approx(0.3)]
    with torch.no_grad():
        dropout.log_odds.copy_(torch.linspace(-2, 1, max(1, math.prod(rates_shape))).reshape(rates_shape))
    expected = dropout.rate.detach().expand(input_shape)
    dropout.layer, plain = nn.Identity(), fixed(dropout)[0].train()
    supernet, number = nas.Supernet(dropout).train(), 600
    torch.manual_seed(0)
    sample = supernet.sample(RELAXATION, 1e-3, generator=generator())
    x = torch.ones(number * input_shape[0], *input_shape[1:])
    for output in (supernet(x, op_weights=sample), plain(x)):
        kept = (output > 0.5).reshape(number, *input_shape).float()
        error = (expected * (1 - expected) / number).sqrt()
        assert ((kept.mean(0) - 1 + expected).abs() < 5.5 * error).all()  # at most 840 elements: 3e-5 to fail by chance
        share = (output * (1 - expected.repeat(number, *(1,) * (x.dim() - 1))))[output > 0.5]
        assert (
            (share - 1).abs() < 1e-3
        ).float().mean() > 0.99  # divided by 1 - rate; at this tau few draws are relaxed
        if per == "channel" and len(rates_shape) == 3:
            assert (kept == kept[..., :1, :1]).all()  # dropped whole
        else:
            assert 0.1 < (kept != kept[:1]).float().mean() < 0.6  # samples differ


def test_the_penalty_of_each_unit_by_hand():
    """A grouped convolution and a linear layer: the sum over inputs, each with its own rate and its own weights."""
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(4, 6, 3, groups=2).double(), nn.Linear(3, 2).double()
    module = nn.Sequential(ConcreteDropout(conv, 0.2, "unit", (2, 1)), ConcreteDropout(linear, 0.2, "unit")).double()
    expected = 0.0
    for dropout in module:
        nn.init.normal_(dropout.log_odds)
        rate = dropout.rate.detach().flatten(1) if dropout.layer is conv else dropout.rate.detach()[:, None]
        for i, row in enumerate(rate):
            weights = (
                conv.weight[3 * (i // 2) : 3 * (i // 2) + 3, i % 2] if dropout.layer is conv else linear.weight[:, i]
            )
            for p in row.tolist():
                entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
                expected += (0.5**2 * (1 - p) * float(weights.square().sum().detach()) / 2 - entropy) / len(row)
    assert float(dropout_penalty(module, 10, length=0.5).detach()) == pytest.approx(expected / 10, rel=1e-9)


def test_learned_rates_of_units_are_those_of_the_closed_form():
    """A unit of output v drops to p where d/dp of v^2 p / (1 - p) equals d/dp of its entropy term, (1 - p)^-2 v^2 = c log((1 - p) / p)."""
    true = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.4])
    strength = 0.5
    weight = strength**0.5 * (1 - true) * ((1 - true) / true).log().sqrt()
    dropout = ConcreteDropout(nn.Linear(5, 1, bias=False), 0.25, "unit")
    dropout.layer.weight.data.copy_(weight)
    dropout.layer.weight.requires_grad_(False)
    supernet = nas.Supernet(dropout).train()
    optimizer = torch.optim.Adam([dropout.log_odds], lr=0.03, betas=(0.9, 0.99))
    found = torch.zeros(5)
    for step in range(600):
        sample = supernet.sample(RELAXATION, 0.1, generator=generator(step))
        error = supernet(torch.ones(256, 5), op_weights=sample) - weight.sum()
        optimizer.zero_grad()
        (error.square().mean() + dropout_penalty(dropout, 1, length=0.0, strength=strength)).backward()
        optimizer.step()
        found += dropout.rate.detach() / 300 if step >= 300 else 0
    torch.testing.assert_close(found, true, atol=0.05, rtol=0)  # the bound; tau 0.1 is not 0


@pytest.mark.parametrize("log_odds", [-200.0, -30.0, 30.0, 200.0])
@pytest.mark.parametrize("per", ["layer", "unit"])
def test_rates_at_the_extremes_stay_finite(log_odds, per):
    dropout = ConcreteDropout(nn.Linear(4, 3, bias=False), 0.5, per)
    torch.nn.init.constant_(dropout.log_odds, log_odds)
    supernet, x = nas.Supernet(dropout), torch.ones(2, 4)
    output = supernet.train()(x, op_weights=supernet.sample(RELAXATION, 0.1, generator=generator()))
    penalty = dropout_penalty(dropout, 10, length=0.0)
    gradients = torch.autograd.grad(output.sum() + penalty, dropout.log_odds)
    assert penalty.abs() < 1e-6 and all(torch.isfinite(value).all() for value in (output, *gradients))
    expected = dropout.layer(x) if log_odds < 0 else torch.zeros(2, 3)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(fixed(dropout).train()(x), expected)


def test_checkpoints_of_one_rate_for_a_layer_load():
    state = {"log_odds": torch.tensor(-1.0), "layer.weight": torch.ones(3, 4), "layer.bias": torch.zeros(3)}
    dropout = ConcreteDropout(nn.Linear(4, 3))
    dropout.load_state_dict(state)
    assert rates(dropout) == [pytest.approx(1 / (1 + math.e))]


def test_fixed_units_drop_nothing_in_eval_mode():
    plain = fixed(ConcreteDropout(nn.Linear(4, 3), 0.5, "unit"))
    x = torch.randn(5, 4, generator=generator())
    assert isinstance(plain[0], UnitDropout) and torch.equal(plain.eval()(x), plain[1](x))


class Drawn(nn.Module):
    """Returns prepared outputs one after another."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.dropout = iter(outputs), nn.Dropout()

    def forward(self, x):
        return next(self.outputs)


def test_uncertainty_of_classes_by_hand():
    """Two draws of two samples: draws that agree have no epistemic uncertainty, draws that are sure and disagree nothing else."""
    sure = 60.0
    logits = [torch.tensor([[math.log(3), 0.0], [sure, 0.0]]), torch.tensor([[math.log(3), 0.0], [0.0, sure]])]
    found = monte_carlo(Drawn(logits), torch.zeros(2, 1), 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(found.mean, torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    torch.testing.assert_close(found.total, torch.tensor([entropy, math.log(2)]))
    torch.testing.assert_close(found.aleatoric, torch.tensor([entropy, 0.0]))
    torch.testing.assert_close(found.epistemic, torch.tensor([0.0, math.log(2)]))


def test_uncertainty_of_a_regression_by_hand():
    means, logs = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [math.log(3)]])
    found = monte_carlo(Drawn(zip(means, logs, strict=True)), torch.zeros(1, 1), 2, "regression")
    assert [float(value) for value in found] == pytest.approx([2.0, 3.0, 2.0, 1.0])
    alone = monte_carlo(Drawn(means), torch.zeros(1, 1), 2, "regression")
    assert [float(value) for value in alone] == [2.0, 1.0, 0.0, 1.0]


def test_parts_of_the_uncertainty_are_those_of_all_masks():
    """A linear network with a Gaussian head: variance of the mean over draws in closed form, and the identity for both kinds."""
    torch.manual_seed(0)
    head = nn.Linear(4, 3)
    plain = nn.Sequential(UnitDropout(torch.tensor([0.1, 0.2, 0.4, 0.5])), head)
    x = torch.randn(6, 4, generator=generator())
    found = monte_carlo(plain, x, 8000, "regression")
    rate = plain[0].rate
    variance = (x.square() * rate / (1 - rate)) @ head.weight.square().T
    torch.testing.assert_close(found.epistemic, variance.detach(), rtol=0.1, atol=0)  # 8,000 draws: 6 standard errors
    for kind in ("classification", "regression"):
        found = monte_carlo(plain, x, 20, kind)
        torch.testing.assert_close(found.total, found.aleatoric + found.epistemic)
        assert (found.epistemic >= 0).all() and (found.aleatoric <= found.total + 1e-6).all()


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        (nn.Linear(2, 2), (), "no dropout"),
        (ConcreteDropout(nn.Linear(2, 2)), (), "pass nas.dropout.fixed"),
        (nn.Dropout(), (0,), "num_draws must be at least 1"),
        (nn.Dropout(), (5, "ranking"), "kind must be classification or regression"),
    ],
)
def test_monte_carlo_refuses(network, arguments, message):
    with pytest.raises(ValueError, match=message):
        monte_carlo(network, torch.zeros(1, 2), *arguments)


@pytest.mark.parametrize(
    ("layer", "per", "size", "message"),
    [
        (nn.Linear(2, 2), "row", (), "per must be layer, channel or unit"),
        (nn.Linear(2, 2), "unit", (3,), "does not fit Linear"),
        (nn.Conv2d(2, 2, 1), "unit", (), "does not fit Conv2d"),
        (nn.Conv2d(2, 2, 1), "layer", (3, 3), "does not fit Conv2d"),
        (nn.ConvTranspose2d(2, 2, 1), "layer", (), "ConvTranspose2d has no"),
    ],
)
def test_wrong_forms(layer, per, size, message):
    with pytest.raises(ValueError, match=message):
        ConcreteDropout(layer, 0.1, per, size)


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
