from itertools import product

import pytest
import torch
from torch.nn import functional as F

import nas
from nas.costs import num_macs, num_params
from nas.testing import check_search_space
from search_spaces.nasbench201 import EDGES, OPS, NASBench201

TEXT = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
CONV3 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
DEAD = r"^genotype: a dead cell: every path from its input to its output has the operation none$"
SMALL = {"channels": 4, "cells_per_stage": 1}


def joined(a, b, c, d, e, f):
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def built(space, text):
    with nas.architecture(space.parse_genotype(text)):
        return space.network("retrain")


def test_space_keeps_the_rules():
    check_search_space(NASBench201(**SMALL), [torch.randn(2, 3, 8, 8)], num_architectures=5)


def test_counts_are_those_of_the_benchmark():
    net = built(NASBench201(), CONV3)
    assert num_params(net) == 1_531_546
    assert num_macs(net, [torch.zeros(2, 3, 32, 32)]) == 220_119_680


def test_counts_agree_with_arithmetic():
    net = built(NASBench201(), joined("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", *["skip_connect"] * 2))
    stem, head = 3 * 16 * 9 + 2 * 16, 2 * 64 + 64 * 10 + 10
    cells = sum(5 * (c * c + 2 * c) for c in (16, 32, 64))
    residual = sum(c * 2 * c * 9 + 4 * c * c * 9 + 2 * 2 * 2 * c + c * 2 * c for c in (16, 32))
    assert num_params(net) == stem + cells + residual + head


def test_number_of_architectures():
    supernet = nas.Supernet(NASBench201().network())
    assert supernet.num_architectures == 15_625
    assert list(supernet.choices) == ["edge_0_1", "edge_0_2", "edge_1_2", "edge_0_3", "edge_1_3", "edge_2_3"]
    assert set(supernet.choices.values()) == {OPS}
    fewer = NASBench201(**SMALL, ops=("skip_connect", "nor_conv_3x3"))
    assert nas.Supernet(fewer.network()).num_architectures == 2**6


def test_every_string_there_and_back():
    space = NASBench201()
    texts = [joined(*ops) for ops in product(OPS, repeat=6)]
    genotypes = [space.parse_genotype(text) for text in texts]
    assert [space.format_genotype(genotype) for genotype in genotypes] == texts
    assert len({tuple(genotype.choices.items()) for genotype in genotypes}) == 15_625


def test_what_a_string_says():
    choices = NASBench201().parse_genotype(TEXT).choices
    assert list(choices.items()) == [
        ("edge_0_1", "nor_conv_3x3"),
        ("edge_0_2", "nor_conv_1x1"),
        ("edge_1_2", "avg_pool_3x3"),
        ("edge_0_3", "skip_connect"),
        ("edge_1_3", "none"),
        ("edge_2_3", "nor_conv_3x3"),
    ]


def test_order_within_a_node_does_not_matter():
    space = NASBench201()
    text = "|nor_conv_3x3~0|+|avg_pool_3x3~1|nor_conv_1x1~0|+|nor_conv_3x3~2|skip_connect~0|none~1|"
    assert space.format_genotype(space.parse_genotype(text)) == TEXT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected 3 nodes joined by '\+', got 1"),
        ("|none~0|+|none~0|none~1|", r"expected 3 nodes joined by '\+', got 2"),
        (CONV3 + "+|none~0|none~1|none~2|none~3|", r"expected 3 nodes joined by '\+', got 4"),
        (
            "none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
            r"node 1 must read \|operation~source\|...\|, got 'none~0\|'",
        ),
        ("|none~0|+||+|none~0|none~1|none~2|", "node 2 must read"),
        ("|none~0|+|none~0||none~1|+|none~0|none~1|none~2|", "node 2 must read"),
        ("|none|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 must read"),
        ("|none~0~0|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 must read"),
        ("|none~|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 must read"),
        (CONV3 + "\n", "node 3 must read .*'"),
        (
            "|max_pool~0|+|none~0|none~1|+|none~0|none~1|none~2|",
            "node 1: unknown operation 'max_pool'; expected one of none",
        ),
        ("|none~0|+|none~0|none~1|+|none~0| none~1|none~2|", "node 3: unknown operation ' none'"),
        ("|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1: unknown source '1'; expected one of 0"),
        ("|none~0|+|none~0|none~-1|+|none~0|none~1|none~2|", "node 2: unknown source '-1'; expected one of 0, 1"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~x|", "node 3: unknown source 'x'; expected one of 0, 1, 2"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~02|", "node 3: unknown source '02'; expected one of 0, 1, 2"),
        ("|none~0|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 has two operations for node 0"),
        ("|none~0|+|none~0|none~1|skip_connect~0|+|none~0|none~1|none~2|", "node 2 has two operations for node 0"),
        ("|none~0|+|none~1|+|none~0|none~1|none~2|", "node 2 has no operation for node 0"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|", "node 3 has no operation for node 2"),
    ],
)
def test_broken_text(text, message):
    with pytest.raises(ValueError, match=f"^NAS-Bench-201 string: {message}") as error:
        NASBench201().parse_genotype(text)
    assert "\n" not in str(error.value)


def test_an_operation_that_the_space_lacks():
    with pytest.raises(ValueError, match="unknown operation 'none'; expected one of skip_connect, nor_conv_3x3"):
        NASBench201(ops=("skip_connect", "nor_conv_3x3")).parse_genotype(joined("none", *["skip_connect"] * 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge_1_3": None}, "no label for choice 'edge_1_3'"),
        ({"edge_3_1": "none"}, "unknown choice 'edge_3_1'; the space has edge_0_1, "),
        ({"edge_1_3": "max_pool"}, "choice 'edge_1_3' has no candidate 'max_pool'; it has none, "),
    ],
)
def test_genotypes_of_something_else(changes, message):
    space = NASBench201()
    choices = {**space.parse_genotype(TEXT).choices, **changes}
    choices = {name: label for name, label in choices.items() if label is not None}
    with pytest.raises(ValueError, match=f"^genotype: {message}"):
        space.format_genotype(nas.Genotype(choices))
    with pytest.raises(ValueError, match=f"^genotype: {message}"):
        space.check_genotype(choices)


def test_dead_cells_are_those_without_a_path():
    space = NASBench201()
    paths = [["edge_0_3"], ["edge_0_1", "edge_1_3"], ["edge_0_2", "edge_2_3"], ["edge_0_1", "edge_1_2", "edge_2_3"]]
    for ops in product(("none", "skip_connect"), repeat=6):
        choices = {f"edge_{source}_{node}": op for (source, node), op in zip(EDGES, ops, strict=True)}
        if any(all(choices[edge] != "none" for edge in path) for path in paths):
            space.check_genotype(choices)
        else:
            with pytest.raises(ValueError, match=DEAD):
                space.check_genotype(choices)


def test_a_dead_cell_ignores_its_input_and_a_live_one_does_not():
    space = NASBench201(**SMALL)
    a, b = torch.randn(2, 1, 4, 8, 8)
    for text, dead in [(joined("skip_connect", *["none"] * 5), True), (joined(*["none"] * 3, *OPS[1:4]), False)]:
        cell = built(space, text).eval().cells[0]
        assert torch.equal(cell(a), cell(b)) is dead


def reference(state, space, text, x):
    """The whole network by hand, from its weights."""

    def norm(x, key):
        values = [state[f"{key}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values)

    def relu_conv_norm(x, key, stride=1):
        weight = state[f"{key}.1.weight"]
        return norm(F.conv2d(F.relu(x), weight, stride=stride, padding=weight.shape[-1] // 2), f"{key}.2")

    def operation(op, x, key):
        if op == "none":
            return 0 * x
        if op == "skip_connect":
            return x
        if op == "avg_pool_3x3":  # mean over the taps that lie inside the image
            ones = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype)
            total = F.conv2d(x, ones, padding=1, groups=x.shape[1])
            return total / F.conv2d(torch.ones_like(x), ones, padding=1, groups=x.shape[1])
        return relu_conv_norm(x, key)

    ops = [[entry.split("~")[0] for entry in node.strip("|").split("|")] for node in text.split("+")]
    x = norm(F.conv2d(x, state["stem.0.weight"], padding=1), "stem.1")
    index = 0
    for stage in range(3):
        if stage > 0:
            short = F.conv2d(F.avg_pool2d(x, 2, 2), state[f"cells.{index}.downsample.1.weight"])
            x = relu_conv_norm(x, f"cells.{index}.conv_a", stride=2)
            x = short + relu_conv_norm(x, f"cells.{index}.conv_b")
            index += 1
        for _ in range(space.cells_per_stage):
            n0 = x
            n1 = operation(ops[0][0], n0, f"cells.{index}.edges.edge_0_1")
            n2 = operation(ops[1][0], n0, f"cells.{index}.edges.edge_0_2")
            n2 = n2 + operation(ops[1][1], n1, f"cells.{index}.edges.edge_1_2")
            n3 = operation(ops[2][0], n0, f"cells.{index}.edges.edge_0_3")
            n3 = n3 + operation(ops[2][1], n1, f"cells.{index}.edges.edge_1_3")
            x = n3 + operation(ops[2][2], n2, f"cells.{index}.edges.edge_2_3")
            index += 1
    x = F.relu(norm(x, "lastact.0")).mean((2, 3))
    return x @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize(
    "text",
    [TEXT, CONV3, joined("avg_pool_3x3", "none", "nor_conv_1x1", "nor_conv_3x3", "skip_connect", "avg_pool_3x3")],
)
def test_network_computes_what_a_hand_written_loop_does(text):
    torch.manual_seed(0)
    space = NASBench201(channels=3, cells_per_stage=2)
    net = built(space, text).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    net(x)  # moves the running statistics off 0 and 1
    expected = reference(net.state_dict(), space, text, x)
    torch.testing.assert_close(net.eval()(x), expected, rtol=1e-10, atol=1e-10)  # float64, sums in another order


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"cells_per_stage": 0}, "cells_per_stage must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"in_channels": -1}, "in_channels must be at least 1, got -1"),
        ({"ops": ["none", "conv"]}, "ops must be among none, .*, got 'conv'"),
        ({"ops": ["none", "none"]}, "ops must be different"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=f"NASBench201: {message}"):
        NASBench201(**arguments)


def test_too_few_ops():
    with pytest.raises(ValueError, match="a choice needs at least two"):
        NASBench201(ops=["none"]).network()
