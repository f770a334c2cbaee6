"""Layers that hold values: mixtures while searching, layers of plain numbers once derived."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.costs.functions import count_macs, num_params
from nas.costs.tabulate import CostModel
from nas.relaxations import GumbelSoftmax, SampledPath, Softmax

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


class Pool(nn.Module):
    """A layer of one's own that reads a value in its forward."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return F.avg_pool1d(x, self.size, 1, self.size // 2)


class Roll(nn.Module):
    """A layer of one's own that reads a value in a tuple; the largest number is 0."""

    def __init__(self):
        super().__init__()
        self.shifts = (nas.value("shift", (-2, 0)),)

    def forward(self, x):
        return torch.roll(x, self.shifts, (2,))


class Holder(nn.Module):
    """Stores a value of a layer inside."""

    def __init__(self, number, inner):
        super().__init__()
        self.number = number
        self.inner = inner

    def forward(self, x):
        return self.inner(x) / self.number


def nested():
    kernel, dilation = nas.value("kernel", (1, 3)), nas.value("dilation", (1, 2))
    conv = nn.Conv1d(4, 4, kernel, dilation=dilation, padding=dilation * (kernel // 2))
    return Holder(kernel, Holder(dilation, conv))


def pair(layer, **options):
    kernel, dilation = nas.value("kernel", (1, 3, 5)), nas.value("dilation", (1, 2, 3))
    return layer(4, 4, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2, **options)


def rectangle(layer):
    height, width = nas.value("height", (1, 3)), nas.value("width", (1, 5))
    return layer(4, 4, (height, width), padding=(height // 2, width // 2))


NETWORKS = {
    "conv1d": lambda: pair(nn.Conv1d),
    "depthwise": lambda: pair(nn.Conv1d, groups=4, bias=False),
    "conv2d": lambda: nn.Sequential(nn.Unflatten(2, (3, 4)), pair(nn.Conv2d), nn.Flatten(2)),
    "same": lambda: nn.Conv1d(4, 4, nas.value("kernel", (2, 3, 4, 5)), dilation=nas.value("d", (1, 2)), padding="same"),
    "circular": lambda: pair(nn.Conv1d, padding_mode="circular"),
    "uneven": lambda: nn.Conv1d(4, 4, (k := nas.value("kernel", (1, 2, 3, 4))), padding=k - 1, dilation=2),
    "strided": lambda: nn.Conv1d(4, 4, 3, stride=(s := nas.value("stride", (1, 2))), padding=1 + 6 * (s - 1)),
    "transposed": lambda: nn.ConvTranspose1d(4, 4, (k := nas.value("kernel", (1, 3, 5))), padding=k // 2),
    "width": lambda: nn.Sequential(nn.Conv1d(4, (w := nas.width("w", (2, 6))), 1), nn.Conv1d(w, 4, nas.value("k", (1, 3)), padding="same")),
    "own": lambda: nn.Sequential(Pool(nas.value("size", (1, 3))), nn.LeakyReLU(nas.value("slope", (0.1, 0.3)))),
    "roll": Roll,
    "rectangle": lambda: nn.Sequential(nn.Unflatten(2, (3, 4)), rectangle(nn.Conv2d), nn.Flatten(2)),
    "transposed2d": lambda: nn.Sequential(nn.Unflatten(2, (3, 4)), rectangle(nn.ConvTranspose2d), nn.Flatten(2)),
    "strides": lambda: nn.Conv1d(4, 4, 7, stride=nas.value("stride", (3, 4))),
    "nested": nested,
    "groups": lambda: nn.GroupNorm(nas.value("groups", (1, 2, 4)), 4),
    "candidate": lambda: nas.choice("op", {"conv": lambda: pair(nn.Conv1d), "skip": nn.Identity}),
}  # fmt: skip


def supernet_of(name):
    torch.manual_seed(0)
    return nas.Supernet(NETWORKS[name]()).double()


def everything(supernet):
    for labels in itertools.product(*supernet.choices.values()):
        choices = dict(zip(supernet.choices, labels, strict=True))
        yield choices, {"op": "skip"} if choices.get("op") == "skip" else choices


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"width", "own", "candidate"}))  # one layer each
def test_a_mixture_is_the_weighted_sum_of_the_derived_layers(name):
    supernet = supernet_of(name)
    x = torch.randn(2, 4, 12, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(supernet.alpha.shape, dtype=torch.float64).masked_fill(~supernet.mask, -1e9)
    weights = logits.softmax(-1).requires_grad_()
    got = supernet(x, op_weights=nas.OpWeights(weights, None))
    wanted = 0
    for choices, active in everything(supernet):
        share = torch.stack([w for key, label in choices.items() for w in weights_of(supernet, weights, key, label)])
        wanted = wanted + share.prod() * supernet.derive(active)(x)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)  # sums in another order
    for a, b in zip(*[torch.autograd.grad(y.square().sum(), (x, weights)) for y in (got, wanted)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def weights_of(supernet, weights, key, label):
    yield weights[list(supernet.choices).index(key), supernet.choices[key].index(label)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_one_hot_derived_and_fresh_agree(name, training):
    supernet = supernet_of(name).train(training)
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    for _, choices in everything(supernet):
        derived = supernet.derive(choices)
        with nas.architecture(choices):
            fresh = NETWORKS[name]().double().train(training)
        assert repr(fresh) == repr(derived)
        assert all(
            isinstance(number, (int, float)) and type(number) in (int, float, bool) for number in numbers(derived)
        )
        assert not any(m._forward_pre_hooks or "forward" in vars(m) for m in derived.modules())
        fresh.load_state_dict(derived.state_dict())
        wanted = fresh(x)
        assert torch.equal(derived(x), wanted)
        index = [labels.index(choices.get(key, labels[0])) for key, labels in supernet.choices.items()]
        for op_weights in (supernet.one_hot(choices), supernet.one_hot(choices, run_all=False), supernet.path(index)):
            torch.testing.assert_close(supernet(x, op_weights=op_weights), wanted, rtol=1e-12, atol=1e-12)


def numbers(network):
    for module in network.modules():
        for item in vars(module).values():
            yield from (n for n in (item if isinstance(item, (tuple, list)) else [item]) if isinstance(n, (int, float)))


def test_gradients_of_shared_weights_are_right():
    supernet = supernet_of("conv1d")
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    weights = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3]], dtype=torch.float64)

    def loss(weight, bias):
        parameters = {"network.weight": weight, "network.bias": bias}
        return torch.func.functional_call(supernet, parameters, (x,), {"op_weights": nas.OpWeights(weights, None)})

    assert torch.autograd.gradcheck(loss, (supernet.network.weight, supernet.network.bias))


def test_a_smaller_kernel_is_the_center_and_trains_alone():
    supernet = supernet_of("conv1d")
    conv = supernet.network
    derived = supernet.derive({"kernel": "3", "dilation": "2"})
    assert torch.equal(derived.weight, conv.weight[..., 1:4])
    supernet(torch.randn(1, 4, 9, dtype=torch.float64), op_weights=supernet.path([1, 0])).sum().backward()
    assert conv.weight.grad[..., 1:4].abs().min() > 0 and conv.weight.grad[..., [0, 4]].abs().max() == 0


def test_without_an_exact_center_a_smaller_kernel_starts_earlier():
    layer = nn.Conv1d(4, 4, nas.value("kernel", (1, 2, 4)), padding="same")
    supernet = nas.Supernet(layer)
    for label, places in (("1", slice(1, 2)), ("2", slice(1, 3)), ("4", slice(0, 4))):
        assert torch.equal(supernet.derive({"kernel": label}).weight, layer.weight[..., places])


def test_all_kernel_sizes_cost_one_convolution():
    kernel = nas.value("kernel", (1, 3, 5))
    supernet = nas.Supernet(nn.Conv1d(4, 4, kernel, dilation=2, padding=kernel - 1))
    x, flops = torch.randn(2, 4, 9), []
    for call in (supernet.derive({"kernel": "5"}), lambda x: supernet(x, op_weights=supernet.sample(Softmax(), 1.0))):
        with FlopCounterMode(display=False) as counter:
            call(x)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


def test_noise_per_sample():
    supernet = supernet_of("conv1d")
    x = torch.randn(8, 4, 9, dtype=torch.float64)
    sample = supernet.sample(GumbelSoftmax(), 1.0, num_samples=8)
    got = supernet(x, op_weights=sample)
    each = [supernet(x[i : i + 1], op_weights=nas.OpWeights(sample.weights[:, i], None)) for i in range(8)]
    torch.testing.assert_close(got, torch.cat(each), rtol=1e-12, atol=1e-12)


def test_sampled_numbers_alone_run(monkeypatch):
    supernet = nas.Supernet(Pool(nas.value("size", (1, 3, 5))))
    calls = []
    monkeypatch.setattr(Pool, "forward", lambda layer, x: calls.append(layer.size) or x)
    supernet(torch.ones(1, 1, 4), op_weights=supernet.path([2]))
    supernet(torch.ones(1, 1, 4), op_weights=supernet.one_hot({"size": "3"}, run_all=False))
    assert calls == [5, 3]


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_of_every_combination_are_tabulated(name):
    supernet = supernet_of(name)
    x = torch.randn(1, 4, 12, dtype=torch.float64)
    model = CostModel(supernet, [x])
    tables = {cost: model.table("cost", cost) for cost in (num_params, count_macs)}
    for _, choices in everything(supernet):
        derived = supernet.derive(choices)
        for cost, table in tables.items():
            assert table.of(choices) == cost(derived, (x,))


def test_number_of_architectures():
    assert supernet_of("conv1d").num_architectures == 9
    assert supernet_of("candidate").num_architectures == 10


def test_copies_pickles_and_state_dicts():
    supernet = nas.Supernet(nn.Sequential(pair(nn.Conv1d)))
    x, sample = torch.randn(2, 4, 9), supernet.sample(Softmax(), 1.0)
    wanted = supernet(x, op_weights=sample)
    with torch.no_grad():
        other = nas.Supernet(nn.Sequential(pair(nn.Conv1d)))
        other.load_state_dict(supernet.state_dict())
        for again in (
            copy.deepcopy(supernet),
            pickle.loads(pickle.dumps(supernet)),
            nas.Supernet(supernet.network),
            other,
        ):
            assert torch.equal(again(x, op_weights=sample), wanted)
    again = copy.deepcopy(supernet)
    again.network[0].weight.data.zero_()
    assert torch.equal(supernet(x, op_weights=sample), wanted), "a copy reads its own weights"


def test_a_search_with_sampled_paths_moves_alpha():
    supernet = supernet_of("conv1d")
    sample = supernet.sample(SampledPath(), 1.0, generator=torch.Generator().manual_seed(0))
    supernet(torch.randn(2, 4, 9, dtype=torch.float64), op_weights=sample).square().sum().backward()
    assert supernet.alpha.grad.abs().sum() > 0


def test_two_pools_with_values_in_candidates_do_not_share_their_result():
    def pool(name):
        return nn.Sequential(nn.AvgPool1d(k := nas.value(name, (1, 3)), 1, k // 2), nn.Conv1d(4, 4, 1))

    supernet = nas.Supernet(nas.choice("op", {"a": lambda: pool("ka"), "b": lambda: pool("kb")})).double()
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    weights = torch.tensor([[0.4, 0.6], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    parts = [supernet.derive({"op": op, "k" + op: k})(x) for op, k in (("a", "1"), ("b", "3"))]
    wanted = 0.4 * parts[0] + 0.6 * parts[1]
    torch.testing.assert_close(supernet(x, op_weights=nas.OpWeights(weights, None)), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda v: nn.Linear(v, 4), "Linear.in_features cannot be a value.*nas.width"),
        (lambda v: nn.Conv1d(4, 4, 1, groups=v), "Conv1d.groups cannot be a value"),
        (lambda v: nn.LSTM(4, 4, num_layers=v), "LSTM.num_layers cannot be a value"),
        (lambda v: nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, v)), "the weight is parametrized"),
    ],
)
def test_layers_that_cannot_hold_a_value(build, message):
    with pytest.raises(ValueError, match=message):
        nas.Supernet(build(nas.value("v", (2, 4))))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda v: nn.Conv1d(4, 4, v), r"differ in shape"),
        (lambda v: nn.Conv1d(4, 4, v + 1, dilation=2, padding=(4 - v) // 2), r"differ in shape"),
        (
            lambda v: nn.AvgPool1d(v, 1),
            r"AvgPool1d with the values v: the outputs of its numbers differ in shape \(2: ",
        ),
        (lambda v: nn.Threshold(0.0, v, inplace=True), "changes its input in place"),
    ],
)
def test_mixtures_that_cannot_be(build, message):
    supernet = nas.Supernet(build(nas.value("v", (2, 4))))
    with pytest.raises(ValueError, match=message):
        supernet(torch.randn(1, 4, 9), op_weights=supernet.sample(Softmax(), 1.0))


def test_called_outside_a_supernet():
    conv = pair(nn.Conv1d)
    nas.Supernet(conv)
    with pytest.raises(RuntimeError, match="choice 'kernel' was called outside a supernet"):
        conv(torch.randn(1, 4, 9))
