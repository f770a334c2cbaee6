import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, mobilenetv3
from torchvision.ops import SqueezeExcitation

import nas
from nas.costs import num_macs, num_params
from nas.testing import check_search_space
from search_spaces.blocks import InvertedResidual
from search_spaces.mobile import MobileNet

SMALL = {
    "stages": ((8, 2, 2), (8, 2, 1)),
    "stem_channels": 4,
    "first_channels": 4,
    "head_channels": 16,
    "num_classes": 5,
}
MOBILENET_V2 = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


def built(space, choices):
    with nas.architecture(choices):
        return space.network("retrain")


def everywhere(space, label):
    return dict.fromkeys(nas.Supernet(space.network()).choices, label)


def test_space_keeps_the_rules():
    space = MobileNet(**SMALL, kernels=(3, 5), squeeze_excite=(False, True), dropout=0.5)
    check_search_space(space, [torch.randn(2, 3, 16, 16)], num_architectures=5)


def test_default_choices_are_those_of_proxylessnas():
    supernet = nas.Supernet(MobileNet().network())
    convs = ("k3_e3", "k3_e6", "k5_e3", "k5_e6", "k7_e3", "k7_e6")
    expected = {f"stage{i}.layer1": convs for i in range(1, 7)}
    expected |= {f"stage{i}.layer{j}": (*convs, "identity") for i in range(1, 6) for j in (2, 3, 4)}
    assert supernet.choices == expected
    assert supernet.num_architectures == 6**6 * 7**15


def test_squeeze_excite_doubles_the_candidates():
    choices = nas.Supernet(MobileNet(**SMALL, kernels=(3,), squeeze_excite=(False, True)).network()).choices
    convs = ("k3_e3", "k3_e3_se", "k3_e6", "k3_e6_se")
    assert choices == {
        "stage1.layer1": convs,
        "stage1.layer2": (*convs, "identity"),
        "stage2.layer1": (*convs, "identity"),  # stride 1 and as many channels as before
        "stage2.layer2": (*convs, "identity"),
    }


def test_mobilenet_v2_is_one_of_its_networks():
    torch.manual_seed(0)
    space = MobileNet(MOBILENET_V2, dropout=0.2)
    net = built(space, everywhere(space, "k3_e6"))
    assert num_params(net) == 3_504_872  # as torchvision states it
    assert num_macs(net, [torch.zeros(1, 3, 224, 224)]) == 300_774_272
    x = 9 * torch.randn(4, 3, 64, 64)  # large enough for ReLU6 to differ from ReLU
    with torch.no_grad():
        net(x)  # moves the running statistics off 0 and 1
    expected = mobilenet_v2()
    expected.load_state_dict(dict(zip(expected.state_dict(), net.state_dict().values(), strict=True)))
    with torch.no_grad():
        assert torch.equal(net.eval()(x), expected.eval()(x))


def test_identity_takes_a_layer_away():
    space = MobileNet(**SMALL, kernels=(3,))
    choices = everywhere(space, "identity") | {"stage1.layer1": "k3_e3"}
    shallow, deep = built(space, choices), built(space, choices | {"stage2.layer1": "k3_e6"})
    hidden = 6 * 8
    assert num_params(deep) - num_params(shallow) == 8 * hidden + 9 * hidden + hidden * 8 + 2 * (hidden + hidden + 8)


def test_labels_say_what_is_built():
    space = MobileNet(**SMALL, kernels=(3, 5), squeeze_excite=(False, True))
    base = everywhere(space, "identity")

    def size(label):
        return num_params(built(space, base | {"stage1.layer1": label}))

    def block(taps, expansion):
        hidden = 4 * expansion
        return 4 * hidden + taps * hidden + hidden * 8 + 2 * (hidden + hidden + 8)

    squeeze = 12 * 3 + 3 + 3 * 12 + 12
    assert size("k5_e3") - size("k3_e3") == block(25, 3) - block(9, 3)
    assert size("k5_e6") - size("k3_e3") == block(25, 6) - block(9, 3)
    assert size("k3_e3_se") - size("k3_e3") == squeeze


@pytest.mark.parametrize(("kernel_size", "stride", "out_channels"), [(3, 1, 16), (5, 2, 16), (7, 1, 8)])
@pytest.mark.parametrize("squeeze_excite", [False, True])
def test_block_computes_what_torchvision_one_does(kernel_size, stride, out_channels, squeeze_excite):
    torch.manual_seed(0)
    config = mobilenetv3.InvertedResidualConfig(16, kernel_size, 96, out_channels, squeeze_excite, "RE", stride, 1, 1.0)
    expected = mobilenetv3.InvertedResidual(config, nn.BatchNorm2d, se_layer=SqueezeExcitation)
    block = InvertedResidual(
        16,
        out_channels,
        kernel_size=kernel_size,
        stride=stride,
        expansion=6,
        squeeze_excite=squeeze_excite,
        activation=nn.ReLU,
    )
    x = torch.randn(2, 16, 8, 8)
    block(x)  # moves the running statistics off 0 and 1
    expected.load_state_dict(dict(zip(expected.state_dict(), block.state_dict().values(), strict=True)))
    assert torch.equal(block.eval()(x), expected.eval()(x))


def test_blocks_leave_their_input_alone():
    x = torch.randn(2, 4, 8, 8)
    before = x.clone()
    for expansion in (1, 3):
        InvertedResidual(4, 4, expansion=expansion, squeeze_excite=True)(x)
    assert torch.equal(x, before)


def test_dropout_stands_before_the_classifier():
    space = MobileNet(**SMALL, kernels=(3,), dropout=0.25)
    net = built(space, everywhere(space, "k3_e3"))
    names = list(dict(net.named_children()))
    assert names[-2:] == ["dropout", "classifier"]
    assert net.dropout.p == 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": []}, "stages must be at least one"),
        ({"stages": [(8, 1, 1), (8, 0, 1)]}, r"stage 2 must be channels, .*, got \[8, 0, 1\]"),
        ({"stages": [(8, 1)]}, r"stage 1 must be channels, .*, got \[8, 1\]"),
        ({"kernels": [3, 4]}, r"kernels must be odd, got \[3, 4\]"),
        ({"kernels": [3, 3]}, "kernels must be different"),
        ({"kernels": [-1, 3]}, "kernels must be different and at least 1"),
        ({"expansions": [0, 3]}, "expansions must be different and at least 1"),
        ({"squeeze_excite": [True, True]}, "squeeze_excite must be different"),
        ({"stem_channels": 0}, "stem_channels must be at least 1, got 0"),
        ({"first_channels": 0}, "first_channels must be at least 1"),
        ({"head_channels": 0}, "head_channels must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"in_channels": 0}, "in_channels must be at least 1"),
        ({"dropout": 1.0}, r"dropout must be from 0 to below 1, got 1\.0"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=f"MobileNet: {message}"):
        MobileNet(**arguments)


def test_too_few_candidates():
    with pytest.raises(ValueError, match=r"choice 'stage1\.layer1' has 1 candidate\(s\); a choice needs at least two"):
        MobileNet(kernels=[3], expansions=[6]).network()
