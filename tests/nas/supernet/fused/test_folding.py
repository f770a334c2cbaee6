"""Op weights in candidates' last layers: the same outputs, gradients and buffers as multiplying outputs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import nas
from nas.relaxations import GumbelSoftmax, SampledPath, TwoPath
from nas.supernet.fused.folding import is_foldable


class Everything(nn.Module):
    """Every layer that takes a weight, with and without parameters, and candidates that do not."""

    def __init__(self):
        super().__init__()
        norms = {
            "affine": lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)),
            "plain": lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)),
            "average": lambda: nn.BatchNorm2d(4, momentum=None),
            "untracked": lambda: nn.BatchNorm2d(4, track_running_stats=False),
        }
        others = {
            "conv": lambda: nn.Sequential(
                nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
            ),
            "bare": lambda: nn.Conv2d(4, 4, 1, bias=False),
            "pool": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
            "deep_pool": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.AvgPool2d(3, stride=1, padding=1)),
            "zero": nas.supernet.candidates.Zero,
            "skip": nn.Identity,
            "dropout": lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.0)),
            "parametrised": lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        }
        self.norms = nas.choice("norms", norms)
        self.others = nas.choice("others", others)
        self.linear = nas.choice("linear", {"a": lambda: nn.Linear(4, 3), "b": lambda: nn.Linear(4, 3, bias=False)})

    def forward(self, x):
        return self.linear(self.others(self.norms(x)).mean((2, 3)))


def step(fold, relaxation, dtype=torch.float64, training=True):
    torch.manual_seed(0)
    supernet = nas.Supernet(Everything(), fold_weights=fold).to(dtype).train(training)
    x = torch.randn(6, 4, 5, 5, dtype=dtype, generator=torch.Generator().manual_seed(1), requires_grad=True)
    outputs = []
    for seed in range(3):
        sample = supernet.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(seed))
        outputs.append(supernet(x, op_weights=sample))
    torch.cat(outputs).square().sum().backward()
    grads = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None} | {"x": x.grad}
    return torch.cat(outputs), grads, dict(supernet.named_buffers())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), GumbelSoftmax(hard=True), SampledPath(), TwoPath()])
def test_outputs_gradients_and_buffers_are_those_of_multiplied_outputs(relaxation, training):
    plain, folded = (step(fold, relaxation, training=training) for fold in (False, True))
    torch.testing.assert_close(folded[0], plain[0], rtol=1e-12, atol=1e-12)
    for expected, got in ((plain[1], folded[1]), (plain[2], folded[2])):
        # a weight of exactly 0 leaves some parameters without a gradient on one side
        for name in expected.keys() | got.keys():
            zero = torch.zeros(())
            torch.testing.assert_close(
                got.get(name, zero).expand_as(expected.get(name, got.get(name))),
                expected.get(name, zero).expand_as(got.get(name, expected.get(name))),
                rtol=1e-10,
                atol=1e-12,
            )


def test_float32_is_equal_to_1e_5():
    plain, folded = (step(fold, GumbelSoftmax(), torch.float32) for fold in (False, True))
    assert (plain[0] - folded[0]).abs().max() <= 1e-5 * plain[0].abs().max()


def test_a_weight_of_one_changes_no_bit():
    torch.manual_seed(0)
    supernet = nas.Supernet(Everything()).train()
    x = torch.randn(6, 4, 5, 5)
    for norm in supernet.choices["norms"]:
        for other in supernet.choices["others"]:
            choices = {"norms": norm, "others": other, "linear": "a"}
            derived = supernet.derive(choices)
            twin = copy.deepcopy(supernet)
            for run_all in (True, False):
                sample = supernet.one_hot(choices, run_all=run_all)
                assert torch.equal(copy.deepcopy(twin)(x, op_weights=sample), copy.deepcopy(derived)(x)), choices


def test_gradients_of_gradients():
    torch.manual_seed(0)
    supernet = nas.Supernet(
        nas.choice(
            "op",
            {
                "conv": nn.Conv2d(2, 2, 1),
                "pool": nn.AvgPool2d(3, stride=1, padding=1),
                "skip": nn.Identity(),
                "norm": nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2, track_running_stats=False)),
            },
        )
    ).double()
    x = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 4, dtype=torch.float64, requires_grad=True)

    def run(x, weights):
        return supernet(x, op_weights=nas.OpWeights(weights, None))

    assert torch.autograd.gradcheck(run, (x, weights))
    assert torch.autograd.gradgradcheck(run, (x, weights))


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_on_a_candidate_or_its_layers_are_called(kind):
    supernet = nas.Supernet(nas.choice("op", {"a": nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), "b": nn.Identity()}))
    x = torch.randn(2, 3, requires_grad=True)
    sample = supernet.sample(GumbelSoftmax(), 1.0)
    expected = supernet(x, op_weights=sample).detach()
    for module in (
        supernet.network.candidates[0],
        supernet.network.candidates[0][1],
        supernet.network.candidates[0][0],
    ):
        seen = []
        handle = getattr(module, f"register_{kind}")(lambda *_, seen=seen: seen.append(1))
        y = supernet(x, op_weights=sample)
        torch.testing.assert_close(y.detach(), expected)
        y.sum().backward(retain_graph=True)
        handle.remove()
        assert seen == [1]


def test_what_is_foldable():
    conv = nn.Conv2d(2, 2, 1)
    assert is_foldable(conv) and not is_foldable(parametrizations.weight_norm(nn.Conv2d(2, 2, 1)))
    assert not is_foldable(type("Own", (nn.Conv2d,), {})(2, 2, 1)) and not is_foldable(nn.LayerNorm(3))
