"""Widths: masked while searching, smaller layers once derived."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import nas
from nas.costs.functions import count_macs
from nas.costs.tabulate import CostModel
from nas.relaxations import GumbelSoftmax, Softmax


class Net(nn.Module):
    """A stem, a depthwise block with expansion and a residual, squeeze and excite, a flattened head."""

    def __init__(self):
        super().__init__()
        width = nas.width("width", (2, 4, 6))
        hidden = nas.width("hidden", (3, 5))
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.PReLU(width))
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.project = nn.Conv2d(2 * width, width, 1)
        self.squeeze = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))
        self.op = nas.choice("op", {"conv": lambda: nn.Conv2d(width, width, 1), "skip": nn.Identity})
        self.head = nn.Sequential(nn.Linear(width * 16, hidden), nn.Tanh(), nn.Linear(hidden, 3))
        self.width = width

    def forward(self, x):
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)).relu())
        x = x * self.squeeze(x.mean((2, 3))).sigmoid()[..., None, None]
        return self.head(self.op(x).flatten(1))


def everything():
    for width, hidden, op in itertools.product(("2", "4", "6"), ("3", "5"), ("conv", "skip")):
        yield {"width": width, "hidden": hidden, "op": op}


@pytest.mark.parametrize("choices", list(everything()), ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_one_hot_derived_and_fresh_agree(choices, training):
    torch.manual_seed(0)
    supernet = nas.Supernet(Net()).double().train(training)
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    derived = supernet.derive(choices)
    got = derived(x)
    # sums over fewer channels are rounded otherwise than sums with zeros among them
    torch.testing.assert_close(supernet(x, op_weights=supernet.one_hot(choices)), got, rtol=1e-12, atol=1e-12)
    with nas.architecture(choices):
        fresh = Net().double().train(training)
    assert {k: v.shape for k, v in derived.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    fresh.load_state_dict(supernet.derive(choices).state_dict())
    assert torch.equal(fresh(x), got)
    assert type(derived.width) is int and derived.width == int(choices["width"])
    assert derived.depthwise.groups == 2 * derived.width and type(derived.depthwise.groups) is int
    assert not any(module._forward_pre_hooks for module in derived.modules())


class Norms(nn.Module):
    """Norms of every kind, a tied embedding, grouped and transposed convolutions."""

    def __init__(self):
        super().__init__()
        width = nas.width("width", (4, 8, 12))
        self.embedding = nn.Embedding(7, width)
        self.norms = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.RMSNorm(2 * width), nn.Linear(2 * width, width)
        )
        self.convs = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1, groups=width // 2),
            nn.GroupNorm(width // 4, width),
            nn.Conv1d(width, width, 1),
            nn.InstanceNorm1d(width, affine=True),
            nn.ConvTranspose1d(width, 2 * width, 2, stride=2),
            nn.BatchNorm1d(2 * width),
            nn.Conv1d(2 * width, width, 2, stride=2),
        )
        self.last = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(width, 7, bias=False)
        self.head.weight = self.embedding.weight
        for parameter in self.parameters():
            nn.init.normal_(parameter)  # ones and zeros would hide what a norm does to channels that are not chosen

    def forward(self, x):
        x = self.embedding(x)
        x = x + self.norms(x)
        return self.head(self.last(self.convs(x.transpose(1, 2)).transpose(1, 2)))


@pytest.mark.parametrize("size", ["4", "8", "12"])
@pytest.mark.parametrize("training", [False, True])
def test_norms_and_embeddings_are_those_of_the_chosen_channels(size, training):
    torch.manual_seed(0)
    supernet = nas.Supernet(Norms()).double().train(training)
    x = torch.randint(7, (3, 5))
    derived = supernet.derive({"width": size})
    got, masked = derived(x), supernet(x, op_weights=supernet.one_hot({"width": size}))
    torch.testing.assert_close(masked, got, rtol=1e-10, atol=1e-10)  # sums over fewer channels are rounded otherwise
    with nas.architecture({"width": size}):
        fresh = Norms().double().train(training)
    fresh.head.weight = fresh.embedding.weight
    assert derived.head.weight is derived.embedding.weight
    fresh.load_state_dict(derived.state_dict())
    assert torch.equal(fresh(x), derived(x))
    assert repr(fresh) == repr(derived), "the numbers of the layers are those of new layers"
    # gradients of the weights that are kept
    got.square().sum().backward()
    masked.square().sum().backward()
    whole = dict(supernet.network.named_parameters())
    for name, parameter in derived.named_parameters():
        part = whole[name].grad[tuple(map(slice, parameter.shape))]
        torch.testing.assert_close(part, parameter.grad, rtol=1e-9, atol=1e-9)
    assert CostModel(supernet, (x[:1],)).table("macs", count_macs).of({"width": size}) == count_macs(derived, (x[:1],))


def test_inherited_weights_are_the_first_channels():
    supernet = nas.Supernet(Net())
    derived = supernet.derive({"width": "4", "hidden": "3", "op": "conv"})
    assert torch.equal(derived.stem[0].weight, supernet.network.stem[0].weight[:4])
    assert torch.equal(derived.head[0].weight, supernet.network.head[0].weight[:3, :64])
    derived.stem[0].weight.data.zero_()
    assert supernet.network.stem[0].weight.abs().min() > 0, "the supernet's own weights were not copied"


def test_soft_masks_are_cumulative_weights_and_differentiable():
    supernet = nas.Supernet(nn.Sequential(nn.Identity(), nn.Linear(nas.width("w", (1, 2, 4)), 1, bias=False))).double()
    nn.init.ones_(supernet.network[1].weight)
    x = torch.eye(4, dtype=torch.float64)
    weights = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64, requires_grad=True)
    y = supernet(x, op_weights=nas.OpWeights(weights, None))
    torch.testing.assert_close(y[:, 0], torch.tensor([1.0, 0.8, 0.5, 0.5], dtype=torch.float64))
    y.sum().backward()
    assert weights.grad.tolist() == [[1.0, 2.0, 4.0]]


def test_noise_per_sample_masks_each_sample():
    supernet = nas.Supernet(nn.Linear(nas.width("w", (1, 3)), 1))
    sample = supernet.sample(GumbelSoftmax(hard=True), 1.0, num_samples=16)
    y = supernet(torch.ones(16, 3), op_weights=sample)
    rows = [supernet(torch.ones(1, 3), op_weights=nas.OpWeights(sample.weights[:, i], None)) for i in range(16)]
    torch.testing.assert_close(y, torch.cat(rows))
    assert len(y.unique()) == 2


def test_copies_and_state_dicts_keep_the_width():
    supernet = nas.Supernet(Net())
    again = copy.deepcopy(supernet)
    again.load_state_dict(supernet.state_dict())
    x = torch.randn(2, 1, 4, 4)
    sample = supernet.sample(Softmax(), 1.0)
    assert torch.equal(supernet(x, op_weights=sample), again(x, op_weights=sample))
    assert nas.Supernet(again.network).choices == supernet.choices
    twice = nas.Supernet(supernet.network)  # masks are not put on twice
    assert torch.equal(twice(x, op_weights=sample), supernet(x, op_weights=sample))


def test_number_of_architectures():
    assert nas.Supernet(Net()).num_architectures == 12


def test_a_width_used_inside_a_candidate_only_is_inactive_without_it():
    def network():
        def block():
            w = nas.width("w", (2, 3))
            return nn.Sequential(nn.Linear(4, w), nn.Linear(w, 4))

        return nas.choice("op", {"block": block, "skip": nn.Identity})

    supernet = nas.Supernet(network())
    assert supernet.num_architectures == 3
    for choices in ({"op": "skip"}, {"op": "block", "w": "2"}):
        with nas.architecture(choices):
            fresh = network()
        assert fresh.state_dict().keys() == supernet.derive(choices).state_dict().keys()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda w: w + 1, "width 'w' does not support addition"),
        (lambda w: w * w, "multiplied by a whole number only"),
        (lambda w: w * 1.5, "multiplied by a whole number only"),
        (lambda w: nas.Supernet(nn.Sequential(nn.LayerNorm(4), nn.GRUCell(w, 2))).derive({"w": "2"}), "GRUCell"),
        (
            lambda w: nas.Supernet(nn.Conv1d(w, w, 1, groups=2)).derive({"w": "2"}),
            "a width in a convolution of 2 groups",
        ),
    ],
)
def test_what_cannot_be_done_with_a_width(use, message):
    with pytest.raises(ValueError, match=message):
        use(nas.width("w", (2, 4)))


@pytest.mark.parametrize("sizes", [(0, 2), (2, 2), (1.5, 2)])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="sizes must be different whole numbers of at least 1"):
        nas.width("w", sizes)


def test_a_name_used_for_two_widths_is_refused_unless_shared():
    def network(shared):
        return nn.Sequential(*[nn.Linear(2, nas.width("w", (1, 2), shared=shared)) for _ in range(2)])

    with pytest.raises(ValueError, match="choice 'w' is used twice, at '0' and '1'"):
        nas.Supernet(network(False))
    assert nas.Supernet(network(True)).num_architectures == 2


def test_a_network_with_widths_outside_a_supernet_says_so():
    with pytest.raises(RuntimeError, match="was called outside a supernet"):
        nas.Supernet(Net()).network(torch.randn(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda w: w / 2, "can only be multiplied"),
        (lambda w: w**2, "can only be multiplied"),
        (lambda w: w >> 1, "can only be multiplied"),
        (lambda w: -w, "can only be multiplied"),
        (lambda w: 3 // w, "can only be multiplied"),
        (lambda w: w // 4, "sizes must stay at least 1"),
        (lambda w: w * 0, "sizes must stay at least 1"),
        (lambda w: w % 4, "different remainders"),
        (lambda w: w // nas.width("v", (1, 2, 3)), "cannot be divided by width 'v'"),
        (lambda w: nas.Supernet(nn.LayerNorm((3, w))), "LayerNorm cannot be cut to a width"),
        (
            lambda w: nas.Supernet(nn.GRUCell(3, w)),
            r"GRUCell has weights \(weight_ih\) that nas.width cannot cut; it cuts weights of Linear, Conv1d",
        ),
        (lambda w: nas.Supernet(nn.GroupNorm(2, w)), r"num_groups and num_channels must both be widths"),
        (lambda w: nas.Supernet(nn.Embedding(w, 3)), "Embedding.num_embeddings cannot be a width"),
        (
            lambda w: nas.Supernet(weight_norm(nn.Linear(3, w))),
            "Linear: weight is parametrized, and nas.width cannot cut it",
        ),
        (lambda w: nas.Supernet(nn.Conv2d(4, w, 1, groups=2)), "a convolution of 2 groups"),
        (lambda w: nas.Supernet(nn.Conv2d(w, 8, 1, groups=w)), "in_channels and out_channels must be widths too"),
    ],
)
def test_what_would_be_silently_wrong_is_refused_at_once(use, message):
    with pytest.raises(ValueError, match=message):
        use(nas.width("w", (2, 4)))


def test_inference_mode_does_not_spoil_later_training():
    supernet = nas.Supernet(nn.Linear(nas.width("w", (7, 13)), 1))
    sample = supernet.sample(Softmax(), 1.0)
    with torch.inference_mode():
        supernet(torch.ones(2, 13), op_weights=sample)
    supernet(torch.ones(2, 13), op_weights=sample).sum().backward()
    assert supernet.alpha.grad is not None
