from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nas
from nas.costs import num_macs, num_params
from nas.genotype import key_of
from nas.runs.config import load_retraining
from nas.runs.options import ConfigSource
from nas.runs.results import find_table
from nas.runs.standalone import standalone_score
from nas.supernet.structure import all_choices
from nas.testing import check_search_space
from search_spaces.dilation import DilationNet1d, DilationNet2d, DilationSegmenter2d


def test_space_keeps_the_rules():
    check_search_space(DilationNet1d(), [torch.randn(3, 1, 64)])


def test_a_segmenter_keeps_the_rules_and_the_pixels():
    space = DilationSegmenter2d(2, 4, (1, 2), num_classes=3, candidate_norms=True)
    check_search_space(space, [torch.randn(3, 1, 8, 12)])
    with nas.architecture(nas.Genotype({"layer1.conv": "dilation_2", "layer2.conv": "dilation_1"})):
        assert space.network()(torch.randn(3, 1, 8, 12)).shape == (3, 3, 8, 12)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("kernel_sizes", [(3,), (3, 5)])
def test_every_option_keeps_the_rules(depthwise, kernel_sizes):
    options = {"num_layers": 2, "channels": 4, "dilations": (1, 3), "in_channels": 2}
    options |= {"depthwise": depthwise, "kernel_sizes": kernel_sizes}
    check_search_space(DilationNet1d(**options), [torch.randn(3, 2, 16)], num_architectures=4)
    check_search_space(DilationNet2d(**options), [torch.randn(3, 2, 8, 8)], num_architectures=4)


def test_default_names_have_not_changed():
    network = DilationNet1d().network()
    labels = ("dilation_1", "dilation_2", "dilation_4", "dilation_8", "dilation_16")
    assert nas.Supernet(network).choices == {f"layer{i}.conv": labels for i in (1, 2, 3)}
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    layer = [*(f"conv.candidates.{k}.weight" for k in range(5)), *(f"norm.{name}" for name in norm)]
    keys = [f"0.{i}.{key}" for i in range(3) for key in layer]
    assert list(network.state_dict()) == [*keys, "3.weight", "3.bias"]


def test_counts_agree_with_arithmetic():
    space = DilationNet1d()
    assert nas.Supernet(space.network()).num_architectures == 5**3
    with nas.architecture({f"layer{i}.conv": "dilation_8" for i in (1, 2, 3)}):
        net = space.network()
    convs = [1 * 16 * 3, 16 * 16 * 3, 16 * 16 * 3]
    assert num_params(net) == sum(convs) + 3 * 2 * 16 + 16 * 10 + 10
    assert num_macs(net, [torch.zeros(2, 1, 64)]) == 64 * sum(convs) + 160


@pytest.mark.parametrize("dilation", [1, 2, 4, 8, 16])
def test_length_is_kept_and_the_taps_are_where_they_should_be(dilation):
    with nas.architecture({"layer1.conv": f"dilation_{dilation}"}):
        net = DilationNet1d(num_layers=1).network()
    x = torch.zeros(1, 1, 64)
    x[0, 0, 32] = 1.0
    touched = net[0][0].conv(x)[0].abs().sum(0).nonzero().flatten().tolist()
    assert touched == [32 - dilation, 32, 32 + dilation]


@pytest.mark.parametrize(("space", "dim"), [(DilationNet1d, 1), (DilationNet2d, 2)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_counts_of_the_options_agree_with_arithmetic(space, dim, depthwise):
    made = space(in_channels=3, channels=8, dilations=(1, 2), kernel_sizes=(3, 5), depthwise=depthwise)
    assert nas.Supernet(made.network()).num_architectures == 4**3
    labels = ["kernel_5_dilation_2", "kernel_3_dilation_1", "kernel_5_dilation_1"]
    with nas.architecture({f"layer{i + 1}.conv": label for i, label in enumerate(labels)}):
        net = made.network()
    convs = 0
    for channels, kernel_size in [(3, 5), (8, 3), (8, 5)]:
        taps = kernel_size**dim
        convs += channels * taps + channels * 8 if depthwise else channels * 8 * taps
    assert num_params(net) == convs + 3 * 2 * 8 + 8 * 10 + 10
    assert num_macs(net, [torch.zeros(2, 3, *[16] * dim)]) == 16**dim * convs + 80


@pytest.mark.parametrize("space", [DilationNet1d, DilationNet2d])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 2), (3, 1), (3, 4), (5, 2), (7, 3)])
def test_size_is_kept_and_taps_are_where_they_should_be(space, depthwise, kernel_size, dilation):
    made = space(num_layers=1, dilations=(dilation,), kernel_sizes=(kernel_size, 9), depthwise=depthwise)
    with nas.architecture({"layer1.conv": f"kernel_{kernel_size}_dilation_{dilation}"}):
        net = made.network()
    x = torch.zeros(1, 1, *[32] * made.dim)
    x[0, 0][(16,) * made.dim] = 1.0
    y = net[0][0].conv(x)
    assert y.shape == (1, 1 if depthwise else 16, *x.shape[2:])
    reach = kernel_size // 2 * dilation
    taps = list(range(16 - reach, 16 + reach + 1, dilation))
    touched = y[0].abs().sum(0).nonzero().tolist()
    assert touched == [list(tap) for tap in product(taps, repeat=made.dim)]


def test_depthwise_layer_computes_what_two_convolutions_do():
    torch.manual_seed(0)
    made = DilationNet2d(num_layers=1, channels=6, in_channels=3, dilations=(2, 3), depthwise=True)
    with nas.architecture({"layer1.conv": "dilation_3"}):
        net = made.network().double()
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    layer = net[0][0]
    columns = F.unfold(x, 3, dilation=3, padding=3).view(4, 3, 9, 81)
    deep = torch.einsum("bctp,ct->bcp", columns, layer.conv.weight.view(3, 9))
    wide = torch.einsum("bcp,oc->bop", deep, layer.pointwise.weight.view(6, 3))
    wide = (wide - wide.mean((0, 2), keepdim=True)) / (wide.var((0, 2), keepdim=True, correction=0) + 1e-5).sqrt()
    expected = F.relu(wide).view(4, 6, 9, 9)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)  # float64, sums in another order


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"dilations": [1, 0]}, "dilations must be different and at least 1"),
        ({"dilations": [2, 2]}, "dilations must be different"),
        ({"kernel_sizes": [3, 4]}, r"kernel_sizes must be odd, got \[3, 4\]"),
        ({"kernel_sizes": [3, 3]}, "kernel_sizes must be different"),
        ({"kernel_sizes": [-1, 3]}, "kernel_sizes must be different and at least 1"),
    ],
)
@pytest.mark.parametrize("space", [DilationNet1d, DilationNet2d])
def test_bad_sizes(space, arguments, message):
    with pytest.raises(ValueError, match=f"{space.__name__}: {message}"):
        space(**arguments)


@pytest.mark.parametrize("dilations", [[], [4]])
def test_too_few_dilations(dilations):
    with pytest.raises(ValueError, match="a choice needs at least two"):
        DilationNet1d(dilations=dilations).network()


def test_too_few_kernel_sizes():
    with pytest.raises(ValueError, match="a choice needs at least two"):
        DilationNet2d(kernel_sizes=[]).network()


CONFIG = Path(__file__).parents[2] / "configs" / "dilation_digits.yaml"


def test_norms_of_candidates_change_the_supernet_but_no_derived_network():
    """The same weights give the same numbers, bit for bit, and fresh networks are drawn alike."""
    choices = {f"layer{i}.conv": label for i, label in enumerate(("dilation_8", "dilation_1"), 1)}
    networks = []
    for candidate_norms in (False, True):
        torch.manual_seed(0)
        with nas.architecture(choices):
            networks.append(DilationNet1d(2, 4, (1, 8), candidate_norms=candidate_norms).network())
    shared, own = networks
    assert [p.shape for p in shared.parameters()] == [p.shape for p in own.parameters()]
    x = torch.randn(3, 1, 20)
    assert torch.equal(shared(x), own(x)) and torch.equal(shared.eval()(x), own.eval()(x))
    supernet = DilationNet1d(2, 4, (1, 8), candidate_norms=True).network()
    assert sum(isinstance(module, nn.BatchNorm1d) for module in supernet.modules()) == 4
    with pytest.raises(ValueError, match="candidate_norms must be false if depthwise is true"):
        DilationNet1d(depthwise=True, candidate_norms=True)


def test_the_table_of_the_digits_is_whole_and_found():
    experiment = load_retraining(ConfigSource((CONFIG,)))
    table = find_table(experiment)
    assert table is not None and table.metric == "accuracy"
    everything = {key_of(choices) for choices in all_choices(experiment.model["space"].network())}
    assert set(table.rows) == everything and len(everything) == 125
    for values in table.rows.values():
        assert all(set(values[part]) == {0, 1, 2} for part in ("validation", "test"))
        assert all(0.5 < score < 1 for scores in values.values() for score in scores.values())


@pytest.mark.slow
@pytest.mark.parametrize("labels", [(1, 1, 1), (1, 2, 4), (1, 8, 16)])
def test_the_table_is_what_training_gives(labels):
    """A mean of 3 scores against one more: other processors round otherwise, which is worth a seed; those vary by about 0.01."""
    experiment = load_retraining(ConfigSource((CONFIG,)))
    choices = {f"layer{i}.conv": f"dilation_{d}" for i, d in enumerate(labels, 1)}
    known = find_table(experiment).value(choices, "test")
    assert standalone_score(experiment, nas.Genotype(choices), "test", 0).value == pytest.approx(known, abs=0.04)
