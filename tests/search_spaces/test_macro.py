import json
import os
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import mobilenetv3

import nas
from nas.costs import num_macs, num_params
from nas.testing import check_search_space
from search_spaces.macro import LABELS, MacroNet


def built(space, text):
    with nas.architecture(space.parse_genotype(text)):
        return space.network("retrain")


def test_space_keeps_the_rules():
    check_search_space(MacroNet(channels=2, stages=(1, 2)), [torch.randn(2, 3, 8, 8)], num_architectures=5)


@pytest.mark.parametrize(("text", "expected"), [("22222222", 2_932_586), ("00000000", 387_882)])
def test_counts_are_those_of_the_benchmark(text, expected):
    assert num_params(built(MacroNet(), text)) == expected


@pytest.mark.slow
@pytest.mark.skipif("NAS_BENCH_MACRO" not in os.environ, reason="NAS_BENCH_MACRO names no nas-bench-macro_cifar10.json")
def test_every_row_of_the_benchmark_has_our_string_parameters_and_macs():
    rows = json.loads(Path(os.environ["NAS_BENCH_MACRO"]).read_text())
    space, wrong = MacroNet(), []
    image = torch.empty(1, 3, 32, 32, device="meta")
    for text, row in rows.items():
        with torch.device("meta"):
            net = built(space, text)
        same = space.format_genotype(space.parse_genotype(text)) == text
        if (same, num_params(net), num_macs(net, [image])) != (True, row["params"], row["flops"]):
            wrong.append(text)
    assert (len(rows), wrong) == (6_561, [])


def test_counts_agree_with_arithmetic():
    net = built(MacroNet(), "10000000")
    block = 32 * 96 + 96 * 9 + 96 * 64
    shortcuts = [64 * 128, 128 * 256]
    head = [256 * 1280, 1280 * 10]
    norms = 2 * (32 + 96 + 96 + 64 + 128 + 256 + 1280)
    assert num_params(net) == 3 * 32 * 9 + block + sum(shortcuts) + sum(head) + norms + 10
    macs = 32**2 * (3 * 32 * 9 + 32 * 96) + 16**2 * (96 * 9 + 96 * 64) + 8**2 * shortcuts[0] + 4**2 * shortcuts[1]
    assert num_macs(net, [torch.zeros(2, 3, 32, 32)]) == macs + 4**2 * head[0] + head[1]


def test_number_of_architectures():
    supernet = nas.Supernet(MacroNet().network())
    assert supernet.num_architectures == 6_561
    assert supernet.choices == {f"layer{i}": LABELS for i in range(1, 9)}


def test_every_string_there_and_back():
    space = MacroNet()
    texts = ["".join(digits) for digits in product("012", repeat=8)]
    genotypes = [space.parse_genotype(text) for text in texts]
    assert [space.format_genotype(genotype) for genotype in genotypes] == texts
    assert len({tuple(genotype.choices.items()) for genotype in genotypes}) == 6_561


def test_what_a_string_says():
    choices = MacroNet(stages=(1, 2)).parse_genotype("201").choices
    assert choices == {"layer1": "mb6_k5", "layer2": "identity", "layer3": "mb3_k3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 8 digits, got 0: ''"),
        ("0120120", "expected 8 digits, got 7: '0120120'"),
        ("012012012", "expected 8 digits, got 9"),
        ("01301201", "layer3: expected one of 0, 1, 2, got '3'"),
        ("0120120x", "layer8: expected one of 0, 1, 2, got 'x'"),
        ("0120120\n", r"layer8: expected one of 0, 1, 2, got '\\n'"),
        ("0120120\u0662", "layer8: expected one of 0, 1, 2, got '\u0662'"),
    ],
)
def test_broken_text(text, message):
    with pytest.raises(ValueError, match=f"^NAS-Bench-Macro string: {message}") as error:
        MacroNet().parse_genotype(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"layer1": "identity"}, "no label for choice 'layer2'"),
        ({"layer1": "identity", "layer2": "mb3_k5"}, "choice 'layer2' has no candidate 'mb3_k5'; it has identity, "),
        ({"layer1": "identity", "layer2": "identity", "layer3": "identity"}, "unknown choice 'layer3'"),
    ],
)
def test_genotypes_of_something_else(choices, message):
    with pytest.raises(ValueError, match=f"^genotype: {message}"):
        MacroNet(stages=(2,)).format_genotype(nas.Genotype(choices))


def conv(in_channels, out_channels, kernel_size, stride=1, activation=None):
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


def relu_block(in_channels, out_channels, stride, kernel_size, expansion):
    """MobileNetV3's block without its extras, from torchvision."""
    config = mobilenetv3.InvertedResidualConfig(
        in_channels, kernel_size, in_channels * expansion, out_channels, False, "RE", stride, 1, 1.0
    )
    return mobilenetv3.InvertedResidual(config, nn.BatchNorm2d)


@pytest.mark.parametrize("text", ["12201210", "02120122", "00000000"])
def test_network_computes_what_one_of_torchvision_blocks_does(text):
    makers = {
        "0": lambda a, b, stride: nn.Identity() if stride == 1 else conv(a, b, 1, stride),
        "1": partial(relu_block, kernel_size=3, expansion=3),
        "2": partial(relu_block, kernel_size=5, expansion=6),
    }
    sizes = [(8, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
    layers = [makers[digit](*size) for digit, size in zip(text, sizes, strict=True)]
    head = [conv(64, 1280, 1, activation=nn.ReLU), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10)]
    expected = nn.Sequential(conv(3, 8, 3, activation=nn.ReLU), *layers, *head)
    torch.manual_seed(0)
    net = built(MacroNet(channels=8), text)
    x = 9 * torch.randn(4, 3, 16, 16)
    net(x)  # moves the running statistics off 0 and 1
    expected.load_state_dict(dict(zip(expected.state_dict(), net.state_dict().values(), strict=True)))
    assert torch.equal(net.eval()(x), expected.eval()(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"in_channels": 0}, "in_channels must be at least 1"),
        ({"stages": []}, r"stages must be at least one number, each at least 1, got \[\]"),
        ({"stages": [2, 0]}, r"stages must be .*, got \[2, 0\]"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=f"MacroNet: {message}"):
        MacroNet(**arguments)
