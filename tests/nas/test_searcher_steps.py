"""Steps of alpha in a training loop of the user, compared with gradients by hand."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import nas
from nas.bilevel import FirstOrder, ScoreFunction
from nas.io.rng import keyed_generator
from nas.regularizers import Entropy
from nas.relaxations import GumbelSoftmax, Softmax, TwoPath
from nas.tau import Constant, LearnedTau, Reheating

VALUES = torch.tensor([0.3, 1.0, 2.5, 4.0])
START = torch.tensor([[0.5, -0.3, 0.1, 0.0]])
RATE, TAU, SEED = 0.5, 0.7, 5


class Times(nn.Module):
    """Multiplies by a number."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


class Net(nn.Module):
    """For an input of 1, the mixture of the values."""

    def __init__(self):
        super().__init__()
        values = enumerate(VALUES.tolist())
        self.value = nas.choice("value", {f"value_{i}": partial(Times, value) for i, value in values})

    def forward(self, x):
        return self.value(x).sum()


def make(**options):
    """A search in Net from START; its loss is the output of the network."""
    defaults = {"num_steps": 10, "arch_optimizer": partial(torch.optim.SGD, lr=RATE), "seed": SEED}
    searcher = nas.Searcher(Net, **{**defaults, "relaxation": GumbelSoftmax(), "tau": Constant(TAU), **options})
    with torch.no_grad():
        searcher.supernet.alpha.copy_(START)
    return searcher, partial(searcher.network, torch.ones(1))


def gumbel(*counters):
    """The noise of one step of alpha."""
    return -torch.empty_like(START).exponential_(generator=keyed_generator(SEED, "noise/arch", *counters)).log()


def softmax_gradient(weights, values):
    """The gradient of ``softmax(logits) @ values``."""
    return weights * (values - (weights * values).sum())


def test_steps_of_alpha_within_one_step_have_draws_of_their_own():
    searcher, loss = make()
    alpha = START.clone()
    for counters in ((0,), (0, 1), (0, 2), None, (1,), (1, 1)):
        if counters is None:
            with searcher.sampled():
                loss()
            continue
        weights = ((alpha + gumbel(*counters)) / TAU).softmax(-1)
        alpha -= RATE * softmax_gradient(weights, VALUES) / TAU
        assert searcher.arch_step(loss).item() == pytest.approx((weights @ VALUES).item(), rel=1e-6)
        torch.testing.assert_close(searcher.supernet.alpha.detach(), alpha)


def test_alpha_is_frozen_in_the_warm_up_and_its_schedule_begins_after_it():
    made = []

    def optimizer(parameters):
        made.append(torch.optim.SGD(parameters, RATE))
        return made[0]

    searcher, loss = make(num_steps=6, warmup_steps=2, arch_schedule="cosine", arch_optimizer=optimizer)
    losses, rates = [], []
    for step in range(6):
        rates.append(made[0].param_groups[0]["lr"])
        losses.append(searcher.arch_step(loss))
        assert torch.equal(searcher.supernet.alpha.detach(), START) == (step < 2)
        with searcher.sampled():
            loss()
    assert [value is None for value in losses] == [True] * 2 + [False] * 4
    cosine = [RATE * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert rates == pytest.approx([RATE] * 2 + cosine)


def sum_of_values(network, inputs):
    """A cost of the user."""
    return sum(part.factor for part in network.modules() if isinstance(part, Times))


def test_alpha_descends_the_penalties_of_limits_and_regularizers():
    limit, factor = 1.5, 0.4
    searcher, loss = make(
        limits={sum_of_values: limit}, inputs=[torch.ones(1)], regularizers=[Entropy(factor)], relaxation=Softmax()
    )
    searcher.arch_step(lambda: loss() * 0)
    p = START.softmax(-1)
    assert (p @ VALUES).item() > limit  # otherwise its penalty is 0
    of_limit = softmax_gradient(p, VALUES) / limit  # of expected cost / limit - 1
    of_entropy = -factor * softmax_gradient(p, p.log())
    torch.testing.assert_close(searcher.supernet.alpha.detach(), START - RATE * (of_limit + of_entropy))


def test_the_score_function_compares_two_paths_at_tau():
    searcher, loss = make(bilevel=ScoreFunction())
    p = (START / TAU).softmax(-1)[0]
    joint = searcher.supernet.joint.at(torch.tensor(TAU))
    draws = joint.draw_paths(2, keyed_generator(SEED, "paths/arch", 0))[:, 0]
    first, second = draws.tolist()
    assert first != second  # otherwise the gradient is 0
    searcher.arch_step(loss)
    scores = (VALUES[draws] - VALUES[draws].flip(0)).sign() + TAU * p[draws].log()  # entropy: 1
    ascent = (torch.eye(4)[draws] - p) / TAU  # of the log-probability of each path
    gradient = ((scores - scores.flip(0))[:, None] * ascent).mean(0)
    torch.testing.assert_close(searcher.supernet.alpha.detach(), START - RATE * gradient)


@pytest.mark.parametrize(("bilevel", "temperature"), [(FirstOrder(), 1.0), (ScoreFunction(), TAU)])
def test_probabilities_are_read_at_the_temperature_of_the_draws(bilevel, temperature):
    searcher, loss = make(bilevel=bilevel)
    searcher.arch_step(loss)
    expected = (searcher.supernet.alpha.detach() / temperature).softmax(-1)[0]
    assert list(searcher.supernet.probabilities()["value"].values()) == pytest.approx(expected.tolist(), rel=1e-6)


def test_candidates_that_were_not_drawn_keep_their_probabilities():
    searcher, loss = make(relaxation=TwoPath())
    drawn = (START + gumbel(0)).topk(2).indices[0]
    others = [i for i in range(4) if i not in drawn]
    before = START.softmax(-1)[0]
    searcher.arch_step(loss)
    after = searcher.supernet.alpha.detach().softmax(-1)[0]
    torch.testing.assert_close(after[others], before[others])
    assert (after - before)[drawn].abs().min() > 0.01


def test_a_learned_tau_descends_with_alpha_and_goes_on():
    searcher, loss = make(tau=LearnedTau(start=TAU, floor=0.05))
    scaled = (START + gumbel(0)) / TAU
    of_tau = -(softmax_gradient(scaled.softmax(-1), VALUES) * scaled).sum() / TAU
    searcher.arch_step(loss)
    excess = math.log(TAU - 0.05) - RATE * float(of_tau) * (TAU - 0.05)
    assert searcher.tau(0.0).item() == pytest.approx(0.05 + math.exp(excess), rel=1e-5)
    again, _ = make(tau=LearnedTau(start=2.0))
    again.load_state_dict(searcher.state_dict())
    assert again.tau(0.0).item() == searcher.tau(0.0).item()


def test_rows_have_the_mean_loss_since_the_last_row_and_reheat_tau():
    searcher, loss = make(tau=Reheating(Constant(TAU), min_entropy=9.0, factor=3.0, duration=0.4), log_every=2)
    losses, taus = [], []
    for step in range(6):
        losses.append(float(searcher.arch_step(loss)))
        with searcher.sampled():
            loss()
        if step % 2:
            assert searcher.row["arch/loss"] == pytest.approx(sum(losses[-2:]) / 2, rel=1e-6)
            taus.append(searcher.row["search/tau"])
    assert taus == pytest.approx([TAU, TAU * 3.0**0.5, TAU])  # collapsed at the first row, after 2 of 10 steps


class Normed(nn.Module):
    """A choice between layers with batch norm."""

    def __init__(self):
        super().__init__()
        layers = {f"width_{n}": partial(nn.Sequential, nn.Linear(2, 3), nn.BatchNorm1d(3)) for n in range(2)}
        self.layer = nas.choice("layer", layers)

    def forward(self, x):
        return self.layer(x)


def test_batch_norms_count_every_call_of_the_network():
    searcher = nas.Searcher(Normed, num_steps=2, relaxation=Softmax())
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    counters = [buffer for name, buffer in searcher.network.named_buffers() if name.endswith("num_batches_tracked")]
    searcher.arch_step(lambda: searcher.network(x).sum())
    assert [int(counter) for counter in counters] == [1, 1]
    with searcher.sampled():
        searcher.network(x), searcher.network(x)
    assert [int(counter) for counter in counters] == [3, 3]


def test_an_error_in_a_call_ends_the_block_of_that_call():
    searcher, loss = make()
    searcher.network.eval()
    with pytest.raises(TypeError):
        searcher.network(None)
    with pytest.raises(RuntimeError, match="outside a supernet"):
        searcher.network.value(torch.ones(1))
    assert float(loss()) == pytest.approx(VALUES[START.argmax()].item())


def test_validation_refuses_a_compiled_network():
    searcher, loss = make()
    searcher.network.eval()
    searcher.network.value.compile()
    with pytest.raises(ValueError, match="the network is compiled"):
        loss()


def test_a_step_around_trains_alpha_on_the_next_batch_and_then_the_weights():
    searcher, loss = make()
    seen = []

    def note(batch):
        seen.append((batch, searcher.num_steps_done, torch.equal(searcher.supernet.alpha.detach(), START)))
        return loss()

    step = searcher.around(note, note, iter(["alpha 0", "alpha 1"]))
    assert float(step("weights 0")) > 0
    step(batch="weights 1")
    assert seen == [
        ("alpha 0", 0, True),
        ("weights 0", 0, False),
        ("alpha 1", 1, False),
        ("weights 1", 1, False),
    ]
    assert searcher.num_steps_done == 2
