"""Trained networks as spaces: choices, exact cuts, what is left whole."""

import random

import pytest
import torch
from convertible import MODELS, Residual, made
from torch import nn
from torch.utils._pytree import tree_leaves

import nas
from nas.conversion.convert import Options, converted
from nas.costs.functions import count_macs, num_params
from nas.costs.tabulate import CostModel
from nas.supernet.structure import active_choices


def random_choices(supernet, seed):
    draw = random.Random(seed)
    return active_choices(supernet.network, {name: draw.choice(labels) for name, labels in supernet.choices.items()})


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("residual", {"stem.0": 16, "expand": 24, "squeeze.1": 16}),
        ("dense", {"a": 4, "gated": 16, "up": 16}),
        ("transformer", {"embedding": 16, "attention.q": 4, "gate": 32}),
        (
            "encoder",
            {
                "stem": 16,
                **{f"layers.layers.{i}.{name}": n for i in (0, 1) for name, n in (("self_attn", 4), ("linear1", 24))},
            },
        ),
        ("shuffled", {"stem": 8}),
        ("mixer", {"stem": 16}),
        (
            "blocks",
            {
                "stem": 16,
                "blocks.2.skip": 24,
                **{f"blocks.{i}.a": 32 for i in range(4)},
                "attention.q": 4,
                "plain.0": 24,
            },
        ),
    ],
)
def test_the_groups_of_a_network(name, units):
    model, args, kwargs = made(name)
    found = converted(model, args, example_kwargs=kwargs)
    assert found.blocks == (["blocks.0", "blocks.1", "blocks.3"] if name == "blocks" else [])
    assert {group.name: len(group.units) for group in found.groups} == units
    heads = [group.name for group in found.groups if group.is_heads]
    assert heads == [choice for choice in units if "attn" in choice or "attention" in choice]
    assert not nas.Supernet(model).choices, "the model itself is not changed"


@pytest.mark.parametrize("name", MODELS)
def test_masked_and_derived_network_agree(name):
    model, args, kwargs = made(name)
    supernet = nas.Supernet(nas.convert(model, args, example_kwargs=kwargs, multiple=1, verbose=False)).eval()
    model.eval()
    full = {choice: labels[-1] for choice, labels in supernet.choices.items()}
    for a, b in zip(
        tree_leaves(supernet.derive(full)(*args, **kwargs)), tree_leaves(model(*args, **kwargs)), strict=True
    ):
        if name == "encoder":  # another layout of the products of torch's attention
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(a, b), "at full size it is the model, bit for bit"
    for seed in range(5):
        choices = random_choices(supernet, seed)
        derived = supernet.derive(choices)
        pairs = zip(
            tree_leaves(supernet(*args, op_weights=supernet.one_hot(choices), **kwargs)),
            tree_leaves(derived(*args, **kwargs)),
            strict=True,
        )
        for masked, plain in pairs:
            torch.testing.assert_close(masked, plain, rtol=1e-10, atol=1e-10)  # sums in another order
        assert sum(p.numel() for p in derived.parameters()) < sum(p.numel() for p in model.parameters())
        dropped = tuple(f"{name}." for name, label in choices.items() if label == "drop")
        assert list(derived.state_dict()) == [key for key in model.state_dict() if not key.startswith(dropped)]
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in derived.modules())
        for layer in derived.modules():
            if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
                sizes = (layer.out_channels, layer.in_channels // layer.groups)
                assert layer.weight.shape[:2] == sizes and layer.in_channels % layer.groups == 0


@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_kept_weights_in_training_are_those_of_the_cut_network(name):
    model, args, kwargs = made(name)
    supernet = nas.Supernet(nas.convert(model, args, example_kwargs=kwargs, multiple=1, verbose=False)).train()
    choices = random_choices(supernet, 7)
    derived = supernet.derive(choices)
    for network, options in ((supernet, {"op_weights": supernet.one_hot(choices)}), (derived, {})):
        sum(leaf.square().sum() for leaf in tree_leaves(network(*args, **options, **kwargs))).backward()
    grads = {name: parameter.grad for name, parameter in supernet.network.named_parameters()}
    with torch.no_grad():  # where weights went is seen by deriving a network of their indices
        for parameter in supernet.network.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))
    places = dict(supernet.derive(choices).named_parameters())
    for name, parameter in derived.named_parameters():
        torch.testing.assert_close(grads[name].flatten()[places[name].long()], parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_cost_tables_are_exact(name):
    model, args, kwargs = made(name)
    supernet = nas.Supernet(nas.convert(model, args, example_kwargs=kwargs, multiple=1, verbose=False))
    inputs = tuple(x[:1] for x in args)
    for cost in (num_params, count_macs):
        table = CostModel(supernet, inputs).table("cost", cost)
        for seed in range(5):
            choices = random_choices(supernet, seed)
            assert table.of(choices) == pytest.approx(cost(supernet.derive(choices), inputs), rel=1e-12)


def test_tied_weights_stay_tied():
    model, args, kwargs = made("transformer")
    supernet = nas.Supernet(nas.convert(model, args, example_kwargs=kwargs, verbose=False))
    derived = supernet.derive({name: labels[0] for name, labels in supernet.choices.items()})
    assert (
        derived.head.weight is derived.embedding.weight
        and derived.head.in_features == derived.embedding.embedding_dim == 8
    )


@pytest.mark.parametrize(
    ("option", "lost", "added"),
    [
        ({"depth": False}, {("blocks.0", "drop"), ("blocks.0", "keep")}, set()),
        ({"skip": ["plain"]}, {("plain.0", "8")}, set()),
        ({"width": (0.75,)}, {("plain.0", "8")}, set()),
        ({"multiple": 4}, set(), {("plain.0", "4")}),
    ],
)
def test_every_option_of_convert_has_an_effect(option, lost, added):
    model, args, _ = made("blocks")

    def labels(**options):
        choices = nas.Supernet(nas.convert(model, args, verbose=False, **options)).choices
        return {(name, label) for name in choices for label in choices[name]}

    plain, other = labels(), labels(**option)
    assert lost <= plain - other and added <= other - plain


def test_the_order_reaches_the_conversion():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(2, 3)
    with torch.no_grad():
        for part in (model[0].weight[:8], model[0].bias[:8], model[2].weight[:, :8]):
            part *= 0.01
    for order, kept in (("magnitude", slice(8, 16)), ("first", slice(0, 8))):
        small = nas.Supernet(nas.convert(model, x, order=order, verbose=False)).derive({"0": "8"})
        assert torch.equal(small[0].weight, model[0].weight[kept])


def test_sizes_are_shares_in_multiples_and_heads_one_by_one():
    model, args, kwargs = made("transformer")
    found = converted(model, args, example_kwargs=kwargs, options=Options((0.3, 0.5), 4))
    assert found.sizes == {"embedding": [4, 8, 16], "attention.q": [1, 2, 3, 4], "gate": [8, 16, 32]}


def test_what_is_skipped_and_what_reaches_the_output_is_whole():
    model, args, _ = made("residual")
    found = converted(model, args, options=Options(skip=["squeeze"]))
    assert {group.name for group in found.groups} == {"stem.0"}
    assert found.whole["head"] == "it makes an output"
    assert "head: left whole: it makes an output" in str(found)


def test_an_operation_that_is_not_known_leaves_its_channels_whole():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x):
            return self.c(self.b(torch.cummax(self.a(x), -1)[0]).relu())

    found = converted(Odd(), (torch.randn(2, 4),))
    assert [group.name for group in found.groups] == ["b"] and "cummax" in found.whole["a"]


def test_the_statistics_of_a_norm_are_those_of_kept_channels_while_searching():
    model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Linear(16, 1))
    supernet = nas.Supernet(nas.convert(model, (torch.randn(2, 4),), verbose=False))
    x = torch.randn(3, 4)
    weights = torch.tensor([[0.25, 0.75]], requires_grad=True)
    supernet(x, op_weights=nas.OpWeights(weights, None)).sum().backward()
    assert weights.grad.isfinite().all() and weights.grad.abs().min() > 0


class Flow(nn.Module):
    """Its control flow depends on the data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 16)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: nn.Linear(3, 4), {}, "nothing in Linear can be cut .*output"),
        (lambda: nn.Sequential(nn.Linear(3, nas.width("w", (2, 4)))), {}, "has choices already"),
        (lambda: nn.Linear(5, 4), {}, r"cannot trace Linear.*\[2, 3\] X \[5, 4\]"),
        (Flow, {}, r"cannot trace Flow \(test_convert.py, line \d+\): .*data-dependent"),
        (lambda: nn.Linear, {}, "must be an nn.Module"),
        (Residual, {"width": (0.0, 1.0)}, "above 0 and at most 1, got 0"),
        (Residual, {"multiple": 0}, "multiple must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_converted(model, options, message):
    with pytest.raises(ValueError, match=message):
        nas.convert(model(), (torch.randn(2, 3),), **options)


class Twice(nn.Module):
    """Calls one layer twice."""

    def __init__(self):
        super().__init__()
        self.a, self.both, self.b = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.b(self.both(self.both(self.a(x)).relu()))


def test_a_layer_that_is_called_twice_is_cut_once():
    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(2, 3, dtype=torch.float64)
    supernet = nas.Supernet(nas.convert(model, x, verbose=False))
    assert supernet.choices == {"a": ("8", "16")}
    small = supernet.derive({"a": "8"})
    torch.testing.assert_close(small(x), supernet(x, op_weights=supernet.one_hot({"a": "8"})), rtol=1e-12, atol=1e-12)
    assert small.both.weight.shape == (8, 8)


def test_recurrent_layers_are_left_whole():
    class Recurrent(nn.Sequential):
        def forward(self, x):
            return self[3](self[2](self[1](self[0](x))[0]).relu())

    model = Recurrent(nn.Linear(3, 16), nn.GRU(16, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    found = converted(model, torch.randn(4, 2, 3))
    assert found.sizes == {"2": [8, 16]} and "gru" in found.whole["0"]
