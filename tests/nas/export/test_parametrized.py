"""Weights that something computes: written as plain ones that compute the same."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import nas as framework
from nas.export.parametrized import fold_parametrizations
from nas.export.python import network_source
from nas.genotype import Genotype


def old(wrap, *args, **kwargs):
    """A norm of torch's older kind, which warns that it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return wrap(*args, **kwargs)


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT


class Recurrent(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.cell = old(wrap, nn.LSTM(4, 4, batch_first=True), "weight_hh_l0")

    def forward(self, x):
        return self.cell(x.unflatten(1, (1, 4)).expand(-1, 3, -1))[0].mean(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = x.unflatten(1, (1, 4))
        return self.inner(x, x, x)[0].flatten(1)


def pruned_twice():
    layer = prune.l1_unstructured(nn.Linear(4, 4), "weight", 3)
    prune.random_unstructured(layer, "bias", 1)
    return prune.random_unstructured(layer, "weight", 3)


def chained():
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return parametrizations.spectral_norm(layer)


def copies():
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    return nn.Sequential(*[copy.deepcopy(layer) for _ in range(3)])


def shared_with(wrap):
    """The weight that one layer computes its own from is another layer's as it is."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(wrap(first), second)


def used_twice():
    layer = parametrizations.orthogonal(nn.Linear(4, 4))
    return nn.Sequential(layer, nn.Tanh(), layer)


def attending():
    module = Attention()
    parametrizations.weight_norm(module.inner, "in_proj_weight")
    return module


CASES = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "orthogonal, wide": lambda: nn.Sequential(nn.Linear(4, 6), parametrizations.orthogonal(nn.Linear(6, 4))),
    "weight norm by a hook": lambda: old(nn.utils.weight_norm, nn.Linear(4, 4)),
    "weight norm of the whole by a hook": lambda: old(nn.utils.weight_norm, nn.Linear(4, 4), dim=None),
    "spectral norm by a hook": lambda: old(nn.utils.spectral_norm, nn.Linear(4, 4)),
    "pruned": lambda: prune.ln_structured(nn.Linear(4, 4), "weight", 2, n=2, dim=0),
    "pruned twice": pruned_twice,
    "one upon another": chained,
    "copies of one layer": copies,
    "shared with a plain layer": lambda: shared_with(parametrizations.spectral_norm),
    "pruned and shared": lambda: shared_with(lambda layer: prune.l1_unstructured(layer, "weight", 5)),
    "used twice": used_twice,
    "recurrent": lambda: Recurrent(nn.utils.weight_norm),
    "recurrent, spectral": lambda: Recurrent(nn.utils.spectral_norm),
    "attention": attending,
}


def trained(make):
    """A network around it after some steps of training, in eval mode, and a batch."""
    torch.manual_seed(0)
    network = nn.Sequential(make(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(3):
        network(torch.randn(5, 4)).square().sum().backward()
        optimizer.step()
    return network.eval(), torch.randn(7, 4)


@pytest.mark.parametrize("name", CASES)
def test_a_plain_copy_computes_what_the_network_does(name, run_source):
    network, x = trained(CASES[name])
    expected, keys = network(x), list(network.state_dict())
    folded, places = fold_parametrizations(network, (x,))
    scale = expected.abs().max()
    assert places and (folded(x) - expected).abs().max() <= 1e-6 * scale
    assert not any(module._forward_pre_hooks or parametrize.is_parametrized(module) for module in folded.modules())
    assert all(tensor.is_contiguous() for tensor in folded.state_dict().values())
    assert list(network.state_dict()) == keys and torch.equal(network(x), expected)  # the network itself is as it was
    written = run_source(network_source(folded, "about")).Network().eval()
    written.load_state_dict(folded.state_dict())
    assert torch.equal(written(x), folded(x))


def test_a_plain_network_is_left_alone():
    network = nn.Linear(4, 2).eval()
    assert fold_parametrizations(network, (torch.rand(7, 4),)) == (network, ())


def test_what_was_at_rest_stays_so():
    network = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)), parametrizations.weight_norm(nn.Linear(4, 4))
    )
    network[0].requires_grad_(False)
    folded, _ = fold_parametrizations(network.eval(), (torch.rand(7, 4),))
    trains = {name: parameter.requires_grad for name, parameter in folded.named_parameters()}
    assert trains == {"0.weight": False, "0.bias": False, "1.weight": True, "1.bias": True}


def test_a_copy_that_computes_something_else_is_refused():
    network = nn.Sequential(Attention()).eval()
    old(nn.utils.weight_norm, network[0].inner.out_proj)  # attention never calls this layer, so its hook never runs
    with torch.no_grad():
        network[0].inner.out_proj.weight_g.mul_(2)
    with pytest.raises(ValueError, match=r"plain changes outputs by .*, more than 1e-06 of"):
        fold_parametrizations(network, (torch.rand(7, 4),))


SPACE = """
import copy

import nas
from torch import nn
from torch.nn.utils import parametrizations, prune


class Mine(nas.SearchSpace):
    def __init__(self, num_classes=10):
        self.num_classes = num_classes

    def network(self, stage="search"):
        act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh})
        block = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.BatchNorm1d(8))
        pruned = prune.l1_unstructured(nn.Linear(64, 8), "weight", 100)
        head = nn.Linear(8, self.num_classes)
        return nn.Sequential(nn.Flatten(), pruned, act, block, copy.deepcopy(block), head)
"""


def test_plain_weights_are_loaded_into_their_space(run_cli, config):
    Path("computed.py").write_text(SPACE)
    path = config({"model.space": {"class_path": "computed.Mine"}})
    Genotype({"act": "relu"}).save("genotype.json")
    trust = ("--trust-module", "computed")
    words = ("export", "--genotype", "genotype.json", "--config", path, *trust, "--formats", "safetensors", "--out")
    assert run_cli(*words, "plain").code == 0
    assert run_cli(*words, "folded", "--fold-bn").code == 0
    weights = load_file("plain/model.safetensors")
    assert {key for key in weights if "weight" in key} == {
        f"{i}.weight" for i in ("1", "3.0", "3.1", "4.0", "4.1", "5")
    }
    assert int((weights["1.weight"] == 0).sum()) == 100
    manifest = json.loads(Path("plain/manifest.json").read_text())
    assert manifest["params"] == (64 * 8 + 8) + 2 * (8 * 8 + 8 + 16) + (8 * 10 + 10)
    assert manifest["macs"] == 64 * 8 + 2 * 8 * 8 + 8 * 10
    assert manifest["unparametrized_weights"] == 3
    examples = load_file("plain/examples.safetensors")
    for folder in ("plain", "folded"):
        network = framework.load(folder, trust_modules=["computed"])
        outputs = network(examples["input.0"])
        torch.testing.assert_close(outputs, examples["output.7.0"], rtol=0, atol=1e-5)  # that of folding batch norms
        other = framework.create_model(folder, num_classes=3, trust_modules=["computed"])
        assert other[-1].weight.shape == (3, 8) and torch.equal(other[1].weight, network[1].weight)
