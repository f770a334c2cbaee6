"""Depth as a choice."""

import pytest
import torch
from torch import nn

import nas
from nas.relaxations import GumbelSoftmax, SampledPath


class Block(nn.Module):
    def __init__(self, i):
        super().__init__()
        self.act = nas.choice(f"act{i}", {"relu": nn.ReLU, "tanh": nn.Tanh})
        self.linear = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.act(self.linear(x))


def network():
    return nn.Sequential(nn.Linear(3, 4), nas.repeat("depth", Block, (0, 1, 3)), nn.Linear(4, 2))


CHOICES = [
    {"depth": "0"},
    {"depth": "1", "act0": "tanh"},
    {"depth": "3", "act0": "relu", "act1": "tanh", "act2": "relu"},
]


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("run_all", [True, False])
def test_one_hot_derived_and_fresh_agree(choices, run_all):
    supernet = nas.Supernet(network())
    x = torch.randn(5, 3)
    derived = supernet.derive(choices)
    assert torch.equal(supernet(x, op_weights=supernet.one_hot(choices, run_all=run_all)), derived(x))
    with nas.architecture(choices):
        fresh = network()
    assert derived.state_dict().keys() == fresh.state_dict().keys()
    assert len(derived[1]) == int(choices["depth"])


def test_number_of_architectures_counts_blocks_in_use():
    assert nas.Supernet(network()).num_architectures == 1 + 2 + 2**3


def test_the_mixture_is_the_sum_over_depths():
    supernet = nas.Supernet(network()).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    weights = torch.tensor([[0.2, 0.3, 0.5], [1, 0, 0], [0, 1, 0], [1, 0, 0]], dtype=torch.float64, requires_grad=True)
    got = supernet(x, op_weights=nas.OpWeights(weights, None))
    depths = [CHOICES[0], {"depth": "1", "act0": "relu"}, CHOICES[2]]
    hidden = [supernet.derive(choices)[:2](x) for choices in depths]
    expected = supernet.network[2](sum(w * h for w, h in zip((0.2, 0.3, 0.5), hidden, strict=True)))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda w: supernet(x, op_weights=nas.OpWeights(w, None)).sum(), weights, check_undefined_grad=False
    )


def test_blocks_behind_the_sampled_depth_do_not_run():
    supernet = nas.Supernet(network())
    supernet(torch.randn(2, 3), op_weights=supernet.one_hot(CHOICES[1], run_all=False))
    assert [block.calls for block in supernet.network[1].blocks] == [1, 0, 0]


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), SampledPath()])
def test_alpha_gets_a_gradient_with_and_without_checkpointing(relaxation):
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        supernet = nas.Supernet(network(), checkpoint_candidates=checkpointed)
        sample = supernet.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(5))
        supernet(torch.ones(5, 3), op_weights=sample).square().sum().backward()
        gradients.append(supernet.alpha.grad)
    assert torch.equal(*gradients)
    assert gradients[0][0].abs().sum() > 0


def test_outputs_of_different_shape_are_refused():
    supernet = nas.Supernet(nas.repeat("depth", lambda i: nn.Linear(3 + i, 4 + i), (1, 2)))
    with pytest.raises(ValueError, match=r"choice 'depth': outputs .* differ in shape \(1: \(2, 4\), 2: \(2, 5\)\)"):
        supernet(torch.ones(2, 3), op_weights=supernet.sample(GumbelSoftmax(), 1.0))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((1, 1), "must be different whole numbers of at least 0"),
        ((-1, 2), "must be different whole numbers of at least 0"),
        ((3,), "at least two"),
    ],
)
def test_bad_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        nas.repeat("depth", Block, counts)


def test_a_count_that_is_no_candidate_is_refused_under_a_genotype():
    with (
        pytest.raises(ValueError, match="'depth' has no candidate '2'; it has 0, 1, 3"),
        nas.architecture({"depth": "2"}),
    ):
        network()
