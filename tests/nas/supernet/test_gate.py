from functools import partial

import pytest
import torch
from torch import nn

import nas
from nas.genotype import Genotype
from nas.relaxations import BinaryConcrete, Dirichlet, GumbelSoftmax, OpWeights, SampledPath, Softmax
from nas.supernet.candidates import Select, Zero
from nas.testing import check_search_space, random_choices


class Gated(nas.SearchSpace):
    """Features, channels, a layer and a branch."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nas.gate("features", lambda n: nn.Linear(n, 8), elements=["age", "height", "weight"])
            self.layer = nas.gate("layer", partial(nn.Linear, 8, 8))
            self.branch = nas.gate("branch", lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh()), drop=Zero)
            self.head = nas.gate("channels", lambda n: nn.Sequential(nn.Linear(n, 2), nn.BatchNorm1d(2)), size=8)

        def forward(self, x):
            x = torch.relu(self.layer(self.first(x)))
            return self.head(x + self.branch(x))

    def network(self, stage="search"):
        return self.Net()


@pytest.fixture
def supernet():
    torch.default_generator.manual_seed(0)
    return nas.Supernet(Gated().network())


def keep(prefix, size, kept):
    return {f"{prefix}.{i}": "keep" if i in kept else "drop" for i in (range(size) if isinstance(size, int) else size)}


NAMES = ("age", "height", "weight")
CHOICES = {
    **keep("features", NAMES, {"age", "weight"}),
    "layer": "keep",
    "branch": "drop",
    **keep("channels", 8, {1, 2, 5}),
}


def test_gates_keep_the_rules_of_a_space():
    check_search_space(Gated(), [torch.randn(5, 3)], num_architectures=20)


def test_each_element_is_a_choice_and_one_at_least_is_kept(supernet):
    assert list(supernet.choices)[:4] == ["features.age", "features.height", "features.weight", "layer"]
    assert supernet.alpha.shape == (3 + 1 + 1 + 8, 2)
    assert supernet.num_architectures == (2**3 - 1) * 2 * 2 * (2**8 - 1)


def test_number_of_architectures_equals_enumeration():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nas.gate("g", lambda n: nn.Linear(n, 3), size=3, shared=True)
            self.b = nas.gate("g", lambda n: nn.Linear(n, 3), size=3, shared=True)
            self.c = nas.gate(
                "layer", lambda: nn.Sequential(nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh}), nn.Linear(3, 3))
            )

    supernet = nas.Supernet(Net())
    seen = {tuple(sorted(random_choices(supernet, seed).items())) for seed in range(800)}
    assert supernet.num_architectures == len(seen) == 7 * (1 + 2)


def test_searching_multiplies_the_elements(supernet):
    supernet.eval()
    x = torch.randn(4, 3)
    sample = supernet.sample(GumbelSoftmax(), 1.0, generator=torch.Generator().manual_seed(0))
    z = sample.weights[:3, 1]
    net = supernet.network
    first = net.first.module(x * z)
    layer = sample.weights[3, 0] * first + sample.weights[3, 1] * net.layer.candidates[1](first)
    hidden = torch.relu(layer)
    hidden = hidden + sample.weights[4, 1] * net.branch.candidates[1](hidden)
    expected = net.head.module(hidden * sample.weights[5:, 1])
    torch.testing.assert_close(supernet(x, op_weights=sample), expected, atol=1e-5, rtol=1e-5)  # float32


def test_derived_is_a_slice_and_smaller_layers_with_the_weights_of_what_is_kept(supernet):
    net = supernet.derive(CHOICES)
    select, linear = net.first
    assert isinstance(select, Select) and select.indices == (0, 2)
    assert torch.equal(linear.weight, supernet.network.first.module.weight[:, [0, 2]])
    assert torch.equal(linear.bias, supernet.network.first.module.bias)
    head, norm = net.head[1]
    assert torch.equal(head.weight, supernet.network.head.module[0].weight[:, [1, 2, 5]])
    assert torch.equal(norm.weight, supernet.network.head.module[1].weight)
    assert isinstance(net.branch, Zero) and isinstance(net.layer, nn.Linear)
    assert set(net.state_dict()) == {k for k in net.state_dict() if "index" not in k}  # a slice is no weight
    all_kept = supernet.derive({**CHOICES, **keep("features", NAMES, set(NAMES))})
    assert isinstance(all_kept.first[0], nn.Identity)


def test_weights_of_the_supernet_are_not_shared_with_the_derived(supernet):
    net = supernet.derive(CHOICES)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert bool(supernet.network.head.module[0].bias.any())


def test_a_gate_never_drops_everything(supernet):
    with torch.no_grad():
        supernet.alpha[:, 0] = 3.0
        supernet.alpha[1, 1] = 2.0  # height: the most probable of the features
    genotype = supernet.discretize()
    assert [genotype.choices[f"features.{name}"] for name in NAMES] == ["drop", "keep", "drop"]
    assert sum(genotype.choices[f"channels.{i}"] == "keep" for i in range(8)) == 1
    supernet.derive(genotype)
    with pytest.raises(ValueError, match=r"none of features\.age, .* is 'keep'; at least one must be"):
        supernet.derive({**CHOICES, **keep("features", NAMES, set())})
    with (
        pytest.raises(ValueError, match="gate 'features' keeps nothing"),
        nas.architecture(keep("features", NAMES, set())),
    ):
        nas.gate("features", lambda n: nn.Linear(n, 8), elements=NAMES)


@pytest.mark.parametrize(
    "relaxation", [BinaryConcrete(), BinaryConcrete(hard=True), GumbelSoftmax(), SampledPath(), Softmax()]
)
def test_every_element_gets_a_gradient(supernet, relaxation):
    sample = supernet.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(0))
    supernet(torch.randn(16, 3), op_weights=sample).square().sum().backward()
    assert (supernet.alpha.grad[:3].abs().sum(1) > 0).all()


@pytest.mark.parametrize("dim", [1, -1, 2])
def test_per_sample_weights_gate_each_sample_by_its_own(dim):
    size = 4
    supernet = nas.Supernet(nas.gate("g", lambda n: nn.Identity(), size=size, dim=dim))
    sample = supernet.sample(GumbelSoftmax(), 1.0, generator=torch.Generator().manual_seed(0), num_samples=3)
    assert sample.weights.shape == (size, 3, 2)
    x = torch.randn(3, 4, 4)
    mixed = supernet(x, op_weights=sample)
    for i in range(3):
        alone = supernet(x[i : i + 1], op_weights=OpWeights(sample.weights[:, i]))
        torch.testing.assert_close(mixed[i : i + 1], alone, atol=1e-6, rtol=0)  # float32


def test_gates_find_the_features_that_matter():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=g)
    y = 2 * x[:, 2] - 3 * x[:, 7]
    torch.default_generator.manual_seed(0)
    supernet = nas.Supernet(nas.gate("x", lambda n: nn.Linear(n, 1), size=10))
    weights = torch.optim.Adam(supernet.weight_parameters(), lr=0.05)
    alpha = torch.optim.Adam(supernet.arch_parameters(), lr=0.05)
    for step in range(400):
        sample = supernet.sample(BinaryConcrete(), 0.7, generator=torch.Generator().manual_seed(step))
        kept = torch.softmax(supernet.alpha, -1)[:, 1].sum()
        loss = (supernet(x, op_weights=sample)[:, 0] - y).square().mean() + 0.1 * kept
        for optimizer in (weights, alpha):
            optimizer.zero_grad()
        loss.backward()
        weights.step()
        alpha.step()
    chosen = [name for name, label in supernet.discretize().choices.items() if label == "keep"]
    assert chosen == ["x.2", "x.7"]
    assert supernet.derive(supernet.discretize())[1].in_features == 2


def test_genotypes_of_gates_survive_the_file(supernet, tmp_path):
    Genotype(CHOICES).save(tmp_path / "g.json")
    with nas.architecture(Genotype.load(tmp_path / "g.json")):
        net = Gated().network()
    assert list(net.state_dict()) == list(supernet.derive(CHOICES).state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nas.gate("g", nn.Linear(3, 3), size=3), "needs a function"),
        (lambda: nas.gate("g", lambda n: nn.Linear(n, 3), size=3, elements=["a"]), "not both"),
        (lambda: nas.gate("g", lambda n: nn.Linear(n, 3), size=0), "at least one element"),
        (lambda: nas.gate("g", lambda n: nn.Linear(n, 3), elements=["a", "a"]), "different names"),
        (lambda: nas.gate("g", lambda n: nn.Linear(n, 3), elements=["mean radius"]), "mean radius"),
        (
            lambda: nas.gate("g", lambda n: nas.choice("c", {"a": nn.ReLU, "b": nn.Tanh}), size=2),
            "must not hold choices",
        ),
    ],
)
def test_bad_gates(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_inputs_of_another_size_and_weights_that_cannot_be_cut():
    supernet = nas.Supernet(nas.gate("g", lambda n: nn.Linear(4, 2), size=4))
    with pytest.raises(ValueError, match="gate 'g': the input has 5 elements in dimension 1, expected 4"):
        supernet(torch.randn(2, 5), op_weights=supernet.sample(Softmax(), 1.0))
    cut = nas.Supernet(nas.gate("g", lambda n: nn.Linear(n, 2 * n + 1), size=4))
    with pytest.raises(ValueError, match=r"gate 'g': .*weight of shape .* cannot be cut"):
        cut.derive(keep("g", 4, {0}))


def test_derived_equals_the_supernet_after_training_too(supernet):
    x = torch.randn(32, 3)
    for seed in range(3):  # running statistics away from 0 and 1
        supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 1.0, generator=torch.Generator().manual_seed(seed)))
    supernet.eval()
    torch.testing.assert_close(
        supernet.derive(CHOICES)(x), supernet(x, op_weights=supernet.one_hot(CHOICES)), atol=1e-5, rtol=1e-5
    )  # float32, sums over fewer terms


def test_buffers_that_are_not_saved_and_frozen_weights_are_cut_too():
    class Scale(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.register_buffer("scale", torch.arange(1.0, n + 1), persistent=False)
            self.linear = nn.Linear(n, 2).requires_grad_(False)

        def forward(self, x):
            return self.linear(x * self.scale)

    supernet = nas.Supernet(nas.gate("g", Scale, size=4)).double()
    net = supernet.derive(keep("g", 4, {1, 3}))[1]
    assert net.scale.tolist() == [2.0, 4.0] and net.scale.dtype == torch.float64
    assert not net.linear.weight.requires_grad


def test_a_gate_inside_a_candidate_that_was_built_but_not_chosen_is_forgotten():
    def network():
        gated = nn.Sequential(nas.gate("f", lambda n: nn.Linear(n, 4), size=4))
        return nn.Sequential(nas.choice("c", {"gated": gated, "plain": nn.Linear(4, 4)}))

    with nas.architecture({"c": "plain"}):
        assert isinstance(network()[0], nn.Linear)
    with nas.architecture({"c": "gated", **keep("f", 4, {0})}):
        assert network()[0][0][1].in_features == 1
    with (
        pytest.raises(ValueError, match=r"no label for choice 'f\.1'"),
        nas.architecture({"c": "gated", "f.0": "keep"}),
    ):
        network()


def test_what_is_kept_is_what_the_relaxation_finds_most_probable():
    supernet = nas.Supernet(nas.gate("g", lambda n: nn.Linear(n, 1), size=2))
    with torch.no_grad():
        supernet.alpha.copy_(torch.tensor([[10.0, 8.0], [0.0, -1.0]]))
    assert supernet.discretize(Dirichlet()).choices == {"g.0": "keep", "g.1": "drop"}  # 9/20 against 1/e : 1
    assert supernet.discretize(Softmax()).choices == {"g.0": "drop", "g.1": "keep"}


def test_shared_gates_must_have_the_same_elements():
    first, second = (
        nas.gate("g", lambda n: nn.Linear(n, 1), elements=elements, shared=True)
        for elements in (["a", "b"], ["b", "c"])
    )
    with pytest.raises(ValueError, match=r"'g\.b' belongs to gates with different elements at '0' and '1'"):
        nas.Supernet(nn.Sequential(first, second))


def test_a_genotype_that_keeps_nothing_is_refused_everywhere(supernet):
    nothing = {**CHOICES, **keep("features", NAMES, set())}
    for use in (supernet.one_hot, supernet.derive):
        with pytest.raises(ValueError, match=r"none of features\.age, .* is 'keep'; at least one must be"):
            use(nothing)
