"""Kinds of modules as candidates: search step, derived and fresh network, state dicts, ONNX. Each works or is refused in one line."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils._pytree import tree_leaves

import nas
from nas.relaxations import GumbelSoftmax

SEQUENCE, IMAGE, VOLUME = torch.randn(4, 6, 8), torch.randn(4, 6, 5, 5), torch.randn(4, 6, 3, 3, 3)
FEATURES, WORDS = torch.randn(4, 6), torch.randint(10, (4, 7))


class Scale(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return 2 * weight


class Pair(nn.Module):
    """Returns a tuple that holds a dict."""

    def __init__(self, act):
        super().__init__()
        self.layer, self.act = nn.Linear(6, 3), act

    def forward(self, x):
        y = self.layer(x)
        return y, {"act": self.act(y), "name": "pair", "none": None}


class Odd(nn.Module):
    """Returns an object that cannot be mixed."""

    def forward(self, x):
        return x, object()


class Attention(nn.MultiheadAttention):
    """Attention of a sequence to itself."""

    def forward(self, x):
        return super().forward(x, x, x)


def parametrized():
    layer = nn.Linear(6, 3)
    parametrize.register_parametrization(layer, "weight", Scale())
    return layer


def recurrent(kind, **options):
    return partial(kind, 8, 5, batch_first=True, **options)


KINDS = {
    "conv1d": (SEQUENCE, partial(nn.Conv1d, 6, 3, 3, padding=1), partial(nn.Conv1d, 6, 3, 1)),
    "conv2d": (IMAGE, partial(nn.Conv2d, 6, 3, 3, padding=1), partial(nn.Conv2d, 6, 3, 5, padding=2)),
    "conv3d": (VOLUME, partial(nn.Conv3d, 6, 3, 3, padding=1), partial(nn.Conv3d, 6, 3, 1)),
    "transposed": (
        IMAGE,
        partial(nn.ConvTranspose2d, 6, 3, 2, stride=2),
        partial(nn.ConvTranspose2d, 6, 3, 4, stride=2, padding=1),
    ),
    "linear": (FEATURES, partial(nn.Linear, 6, 3), partial(nn.Linear, 6, 3, bias=False)),
    "bilinear": ((FEATURES, FEATURES), partial(nn.Bilinear, 6, 6, 3), partial(nn.Bilinear, 6, 6, 3, bias=False)),
    "embedding": (WORDS, partial(nn.Embedding, 10, 3), partial(nn.Embedding, 10, 3, max_norm=1.0)),
    "lstm": (SEQUENCE, recurrent(nn.LSTM), recurrent(nn.LSTM, bias=False)),
    "gru": (SEQUENCE, recurrent(nn.GRU), recurrent(nn.GRU, bias=False)),
    "lstm or gru": (SEQUENCE, lambda: nas.First(recurrent(nn.LSTM)()), lambda: nas.First(recurrent(nn.GRU)())),
    "attention": (SEQUENCE, partial(Attention, 8, 2, batch_first=True), partial(Attention, 8, 4, batch_first=True)),
    "transformer": (
        SEQUENCE,
        partial(nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True),
        partial(nn.TransformerEncoderLayer, 8, 4, 16, batch_first=True),
    ),
    "batch norm": (IMAGE, partial(nn.BatchNorm2d, 6), partial(nn.BatchNorm2d, 6, affine=False)),
    "layer norm": (SEQUENCE, partial(nn.LayerNorm, 8), partial(nn.LayerNorm, (6, 8))),
    "group norm": (IMAGE, partial(nn.GroupNorm, 2, 6), partial(nn.GroupNorm, 3, 6)),
    "instance norm": (IMAGE, partial(nn.InstanceNorm2d, 6, affine=True), partial(nn.InstanceNorm2d, 6)),
    "rms norm": (SEQUENCE, partial(nn.RMSNorm, 8), partial(nn.RMSNorm, 8, elementwise_affine=False)),
    "weight norm": (FEATURES, lambda: parametrizations.weight_norm(nn.Linear(6, 3)), partial(nn.Linear, 6, 3)),
    "spectral norm": (FEATURES, lambda: parametrizations.spectral_norm(nn.Linear(6, 3)), partial(nn.Linear, 6, 3)),
    "parametrized": (FEATURES, parametrized, partial(nn.Linear, 6, 3)),
    "quant stub": (
        FEATURES,
        lambda: nn.Sequential(torch.ao.quantization.QuantStub(), nn.Linear(6, 3)),
        partial(nn.Linear, 6, 3),
    ),
    "container": (
        FEATURES,
        lambda: nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 3))),
        partial(nn.Linear, 6, 3),
    ),
    "tuple": (FEATURES, lambda: Pair(nn.ReLU()), lambda: Pair(nn.Tanh())),
    "lazy": (FEATURES, partial(nn.LazyLinear, 3), partial(nn.Linear, 6, 3)),
    "other tuples": (SEQUENCE, recurrent(nn.LSTM), recurrent(nn.GRU)),
    "object": (FEATURES, Odd, Odd),
}
REFUSED = {
    "lazy": "is a LazyLinear whose sizes are unknown",
    "other tuples": "candidate outputs differ in form .* nas.First takes the first of several",
    "object": "must return tensors, alone or in tuples, lists and dicts, got object",
}


class Net(nn.Module):
    """The choice, and a layer before it that needs a gradient through it."""

    def __init__(self, kind):
        super().__init__()
        _, first, second = KINDS[kind]
        self.scale = nn.Parameter(torch.ones(()))
        self.choice = nas.choice("kind", {"first": first, "second": second})

    def forward(self, *args):
        return self.choice(*(self.scale * arg if arg.is_floating_point() else arg for arg in args))


def args_of(kind):
    args = KINDS[kind][0]
    return args if isinstance(args, tuple) else (args,)


def tensors(output):
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]


def step(kind, relaxation):
    """One search step; returns the supernet."""
    torch.manual_seed(0)
    supernet = nas.Supernet(Net(kind))
    outputs = supernet(*args_of(kind), op_weights=supernet.sample(relaxation, 1.0))
    sum(tensor.square().mean() for tensor in tensors(outputs)).backward()
    return supernet


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_a_step_and_what_is_derived(kind, hard):
    if kind in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[kind]) as caught:
            step(kind, GumbelSoftmax(hard=hard))
        assert "\n" not in str(caught.value)
        return
    supernet, args = step(kind, GumbelSoftmax(hard=hard)), args_of(kind)
    assert supernet.alpha.grad is not None and bool(torch.isfinite(supernet.alpha.grad).all())
    supernet.eval()
    for label in ("first", "second"):
        choices = {"kind": label}
        derived = supernet.derive(choices).eval()
        with torch.no_grad():
            expected, found = derived(*args), supernet(*args, op_weights=supernet.one_hot(choices))
        torch.testing.assert_close(
            tensors(found), tensors(expected), rtol=1e-5, atol=1e-6
        )  # sums of products with 0 and 1
        with nas.architecture(choices):
            fresh = Net(kind).eval()
        fresh.load_state_dict(derived.state_dict())  # equal keys
        with torch.no_grad():
            torch.testing.assert_close(tensors(fresh(*args)), tensors(expected), rtol=0, atol=0)
    other = nas.Supernet(Net(kind)).eval()
    other.load_state_dict(supernet.state_dict())
    weights = supernet.every_candidate()
    with torch.no_grad():
        torch.testing.assert_close(
            tensors(other(*args, op_weights=weights)), tensors(supernet(*args, op_weights=weights)), rtol=0, atol=0
        )


@pytest.mark.parametrize("kind", ["lstm", "attention", "tuple"])
def test_mixtures_of_tuples_are_the_weighted_sums_of_their_tensors(kind):
    supernet = nas.Supernet(Net(kind)).eval()
    weights = nas.OpWeights(torch.tensor([[0.3, 0.7]]))
    with torch.no_grad():
        mixed = tensors(supernet(*args_of(kind), op_weights=weights))
        parts = [tensors(supernet.derive({"kind": label}).eval()(*args_of(kind))) for label in ("first", "second")]
    expected = [0.3 * one + 0.7 * other for one, other in zip(*parts, strict=True)]
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REFUSED])
def test_onnx_where_torch_can(kind, tmp_path):
    pytest.importorskip("onnxruntime")
    network, args = nas.Supernet(Net(kind)).derive({"kind": "first"}).eval(), args_of(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "tuple":  # one of its outputs is a text
            with pytest.raises(ValueError, match="onnx: AttributeError") as caught:
                nas.export_network(network, args, tmp_path / "out", formats=("onnx",))
            assert "\n" not in str(caught.value)
            return
        report = nas.export_network(network, args, tmp_path / "out", formats=("onnx",))
    assert report["onnx"]["ok"], report
