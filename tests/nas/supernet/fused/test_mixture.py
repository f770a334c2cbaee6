"""What candidates share, what contributes nothing, and sums that choices join."""

import copy

import pytest
import torch
from torch import nn

import nas
from nas.profile.memory import saved_bytes
from nas.relaxations import GumbelSoftmax, SampledPath
from nas.supernet.candidates import Zero
from search_spaces.nasbench201 import NASBench201


class Two(nn.Module):
    """Two choices that read one tensor."""

    def __init__(self, ops, between=lambda x: None, join=False):
        super().__init__()
        self.a, self.b = nas.choice("a", ops), nas.choice("b", ops)
        self.between, self.join = between, join

    def forward(self, x):
        x = x * 1
        if self.join:
            return nas.mixed_sum([self.a, self.b], [x, x])
        first = self.a(x)
        self.between(x)
        return first + self.b(x)


def convs(first, *rest):
    return {str(i): (lambda: nn.Sequential(first(), *[step() for step in rest], nn.Conv2d(2, 2, 1))) for i in range(3)}


def outcome(network, relaxation=None, *, fold=True, x=None, dtype=torch.float64, steps=1):
    """Outputs, gradients and buffers."""
    supernet = nas.Supernet(copy.deepcopy(network), fold_weights=fold).to(dtype)
    with torch.no_grad():
        supernet.alpha.copy_(torch.randn(supernet.alpha.shape, generator=torch.Generator().manual_seed(3)))
    x = (
        (torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1)) if x is None else x)
        .to(dtype)
        .requires_grad_()
    )
    total = 0
    for seed in range(steps):
        sample = supernet.sample(relaxation or GumbelSoftmax(), 1.0, generator=torch.Generator().manual_seed(seed))
        total = total + supernet(x, op_weights=sample)
    total.square().sum().backward()
    grads = {name: p.grad for name, p in supernet.named_parameters()} | {"x": x.grad}
    return total.detach(), grads, {name: b.clone() for name, b in supernet.named_buffers()}


def assert_same(got, expected, **room):
    torch.testing.assert_close(got[0], expected[0], **room)
    assert got[2].keys() == expected[2].keys()
    for name, buffer in expected[2].items():
        torch.testing.assert_close(got[2][name], buffer, **room)
    for name, grad in expected[1].items():
        assert (got[1][name] is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(got[1][name], grad, **room)


EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64; the order of sums differs


@pytest.mark.parametrize("first", [nn.ReLU, nn.SiLU, lambda: nn.AvgPool2d(3, 1, 1), lambda: nn.MaxPool2d(3, 1, 1)])
def test_a_first_step_is_shared_by_candidates_and_choices_that_read_one_tensor(first, operations):
    torch.manual_seed(0)
    network = Two(convs(first))
    supernet = nas.Supernet(network)
    with operations() as seen:
        supernet(torch.randn(2, 2, 5, 5), op_weights=supernet.sample(GumbelSoftmax(), 1.0))
    name = {"ReLU": "relu", "SiLU": "silu", "AvgPool2d": "avg_pool2d", "MaxPool2d": "max_pool2d_with_indices"}[
        type(first()).__name__
    ]
    assert seen.names.count(name) == 1
    assert_same(outcome(network), outcome(network, fold=False), **EXACT)


def test_steps_of_other_settings_are_not_shared():
    ops = {
        "three": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(2, 2, 1)),
        "five": lambda: nn.Sequential(nn.AvgPool2d(5, 1, 2), nn.Conv2d(2, 2, 1)),
        "padded": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(2, 2, 1)),
        "relu": lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1)),
        "tanh": lambda: nn.Sequential(nn.GELU("tanh"), nn.Conv2d(2, 2, 1)),
        "gelu": lambda: nn.Sequential(nn.GELU(), nn.Conv2d(2, 2, 1)),
    }
    torch.manual_seed(0)
    network = Two(ops)
    assert_same(outcome(network), outcome(network, fold=False), **EXACT)


@pytest.mark.parametrize("second", [lambda: nn.ReLU(inplace=True), lambda: nn.Hardtanh(-0.1, 0.1, inplace=True)])
def test_a_shared_step_is_not_changed_by_what_follows_in_place(second):
    torch.manual_seed(0)
    ops = {
        "plain": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(2, 2, 1)),
        "inplace": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), second(), nn.Conv2d(2, 2, 1)),
        "after": lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(2, 2, 1)),
    }
    network = Two(ops)
    assert_same(outcome(network), outcome(network, fold=False), **EXACT)


def test_an_input_changed_in_place_is_not_mistaken_for_the_one_before():
    torch.manual_seed(0)
    network = Two(convs(nn.ReLU), between=lambda x: x.add_(1.0))
    folded, plain = (nas.Supernet(copy.deepcopy(network), fold_weights=fold) for fold in (True, False))
    sample = plain.sample(GumbelSoftmax(), 1.0)
    x = torch.randn(2, 2, 3, 3)
    # relu and convolution keep no input: the change is allowed
    torch.testing.assert_close(folded(x, op_weights=sample), plain(x, op_weights=sample))


def test_batches_are_counted_as_often_as_a_norm_runs():
    torch.manual_seed(0)
    norms = {"a": lambda: nn.BatchNorm2d(2), "b": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(2, momentum=None))}

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.op, self.other = nas.choice("op", norms), nas.choice("other", norms)

        def forward(self, x):
            return self.other(self.op(self.op(x)))

    got, expected = outcome(Twice(), steps=3), outcome(Twice(), fold=False, steps=3)
    counters = {name: int(b) for name, b in got[2].items() if name.endswith("num_batches_tracked")}
    assert sorted(counters.values()) == [3, 3, 6, 6]
    assert counters == {name: int(b) for name, b in expected[2].items() if name.endswith("num_batches_tracked")}


def test_a_layer_shared_by_candidates_gets_the_sum_of_both_gradients():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 2, 1)
    network = nas.choice("op", {"a": nn.Sequential(nn.ReLU(), conv), "b": nn.Sequential(nn.SiLU(), conv), "c": conv})
    assert_same(outcome(network), outcome(network, fold=False), **EXACT)


def test_layers_that_were_not_reached_get_no_gradient():
    def inner():
        return nas.choice("inner", {"a": nn.Conv2d(2, 2, 1), "b": nn.Conv2d(2, 2, 3, padding=1)})

    torch.manual_seed(0)
    network = nas.choice("outer", {"nested": inner(), "flat": nn.Conv2d(2, 2, 1), "skip": nn.Identity()})
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        supernet = nas.Supernet(network)
        sample = supernet.sample(SampledPath(), 1.0, generator=torch.Generator().manual_seed(seed))
        network.zero_grad()
        supernet(torch.randn(2, 2, 4, 4), op_weights=sample).sum().backward()
        reached = {name for name, p in network.named_parameters() if p.grad is not None}
        outer, chosen = sample.active[:, 0].tolist()
        expected = {0: f"candidates.0.candidates.{chosen}.", 1: "candidates.1."}.get(outer)
        assert all(expected and name.startswith(expected) for name in reached)
        assert (not reached) == (outer == 2)
        seen.add(outer)
    assert len(seen) > 1


OPS = {
    "zero": Zero,
    "skip": nn.Identity,
    "conv": lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)),
    "pool": lambda: nn.AvgPool2d(3, 1, 1),
    "dropout": lambda: nn.Dropout(0.0),
}


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), GumbelSoftmax(hard=True), SampledPath()])
def test_joined_sums_are_sums(relaxation):
    torch.manual_seed(0)
    joined, apart = Two(OPS, join=True), Two(OPS)
    apart.load_state_dict(joined.state_dict())
    for steps in (1, 4):
        got = outcome(joined, relaxation, steps=steps)
        assert_same(got, outcome(apart, relaxation, steps=steps), **EXACT)
        plain = outcome(joined, relaxation, fold=False, steps=steps)
        torch.testing.assert_close(got[0], plain[0], **EXACT)


def test_joined_sums_of_anything_and_of_nothing():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nas.choice("a", {"zero": Zero(), "none": Zero()})
            self.b = nas.choice("b", {"zero": Zero(), "skip": nn.Identity()})
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return nas.mixed_sum([self.a, self.b], [x, x]), nas.mixed_sum([self.conv, self.a, nn.ReLU()], [x, x, x])

    torch.manual_seed(0)
    supernet = nas.Supernet(Net())
    x = torch.randn(2, 2, 3, 3)
    for b in ("zero", "skip"):
        for run_all in (True, False):
            with torch.no_grad():
                both, mixed = supernet(x, op_weights=supernet.one_hot({"a": "zero", "b": b}, run_all=run_all))
                derived = supernet.derive({"a": "zero", "b": b})(x)
            torch.testing.assert_close(both, x if b == "skip" else torch.zeros_like(x), rtol=0, atol=0)
            torch.testing.assert_close(mixed, supernet.network.conv(x) + x.relu(), rtol=0, atol=0)
            torch.testing.assert_close(derived[0], both, rtol=0, atol=0)
            torch.testing.assert_close(derived[1], mixed, rtol=0, atol=0)


def test_hooks_on_a_joined_choice_are_called():
    network = Two(OPS, join=True)
    seen = []
    network.a.register_forward_hook(lambda *_: seen.append(1))
    outcome(network)
    assert seen == [1]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated.*")  # torch's own
def test_transforms_and_hooks_on_all_modules_see_plain_operations():
    torch.manual_seed(0)
    supernet = nas.Supernet(Two(OPS, join=True)).double().eval()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    weights = supernet.sample(GumbelSoftmax(), 1.0).weights.detach()

    def loss(weights):
        return supernet(x, op_weights=nas.OpWeights(weights)).square().sum()

    expected = torch.autograd.functional.jacobian(loss, weights)
    torch.testing.assert_close(torch.func.grad(loss)(weights), expected, **EXACT)
    direction = torch.randn_like(weights)
    value = torch.func.jvp(loss, (weights,), (direction,))[1]
    torch.testing.assert_close(value, (expected * direction).sum(), **EXACT)

    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(type(module)))
    loss(weights)
    handle.remove()
    assert {nn.BatchNorm2d, nn.AvgPool2d, nn.Identity} <= seen


def test_shapes_are_checked_although_zeros_do_not_run():
    class Strided(Zero):
        def forward(self, x):
            return super().forward(x)[..., ::2]

    for ops in ({"a": Zero(), "b": nn.Conv2d(2, 2, 3)}, {"a": Strided(), "b": nn.Identity()}):
        supernet = nas.Supernet(nas.choice("op", ops))
        with pytest.raises(ValueError, match=r"'op': candidate outputs differ in shape"):
            supernet(torch.randn(2, 2, 6, 6), op_weights=supernet.sample(GumbelSoftmax(), 1.0))


def test_half_precision_under_autocast_is_as_before():
    torch.manual_seed(0)
    network = Two(OPS, join=True)
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = outcome(network, dtype=torch.float32), outcome(network, fold=False, dtype=torch.float32)
    assert got[0].dtype == expected[0].dtype
    # bfloat16 keeps 8 bits, and a handful of terms are added
    torch.testing.assert_close(got[0], expected[0], rtol=0.05, atol=0.05)


def test_nasbench201_keeps_less_than_half_of_the_activations():
    def kept(fold):
        supernet = nas.Supernet(NASBench201(4, 1).network(), fold_weights=fold)
        x = torch.randn(4, 3, 16, 16)
        sample = supernet.sample(GumbelSoftmax(), 1.0)
        return saved_bytes(
            lambda: supernet(x, op_weights=sample).sum(), [*supernet.parameters(), *supernet.buffers(), x]
        )

    assert kept(True) <= 0.5 * kept(False)
