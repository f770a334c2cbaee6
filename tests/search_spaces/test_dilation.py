import pytest
import torch

import nas
from nas.costs import num_macs, num_params
from nas.testing import check_search_space
from search_spaces.dilation import DilationNet1d


def test_space_keeps_the_rules():
    check_search_space(DilationNet1d(), [torch.randn(3, 1, 64)])


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"dilations": [1, 0]}, "dilations must be different and at least 1"),
        ({"dilations": [2, 2]}, "dilations must be different"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        DilationNet1d(**arguments)


@pytest.mark.parametrize("dilations", [[], [4]])
def test_too_few_dilations(dilations):
    with pytest.raises(ValueError, match="a choice needs at least two"):
        DilationNet1d(dilations=dilations).network()
