import random
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

import nas
from nas.costs import num_macs, num_params
from nas.relaxations import OpWeights
from nas.testing import check_search_space
from search_spaces.darts import DARTS_V1, DARTS_V2, Darts
from search_spaces.darts_ops import DERIVABLE, OPS, ScheduledDropPath, factorized_reduce

SMALL = {"search_channels": 4, "search_layers": 3, "channels": 4, "layers": 3, "auxiliary": False}
PDARTS = (
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0),('sep_conv_3x3', 1), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 3), ('sep_conv_3x3',0), ('dil_conv_5x5', 4)], normal_concat=range(2, 6), reduce=[('avg_pool_3x3', 0), "
    "('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), ('dil_conv_3x3', 1), "
    "('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))"
)
TWO_NODES = {
    "normal": [("sep_conv_5x5", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_3x3", 2)],
    "reduce": [("skip_connect", 0), ("dil_conv_5x5", 1), ("avg_pool_3x3", 1), ("sep_conv_3x3", 2)],
}


def text_of(cells):
    concat = list(range(2, 2 + len(cells["normal"]) // 2))
    return "Genotype(" + ", ".join(f"{cell}={cells[cell]}, {cell}_concat={concat}" for cell in cells) + ")"


def built(space, text, stage="retrain"):
    with nas.architecture(space.parse_genotype(text)):
        return space.network(stage)


def with_random_statistics(net):
    """In float64 and eval mode, no batch norm an identity."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            for parameter in module.parameters():
                torch.nn.init.normal_(parameter)
    return net.double().eval()


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ({"num_nodes": 3}, 8),
        pytest.param({}, 8, marks=pytest.mark.slow),
        pytest.param({"learned_edges": True, "num_nodes": 3}, 8, marks=pytest.mark.slow),
        pytest.param({"dataset": "imagenet"}, 32, marks=pytest.mark.slow),
    ],
)
def test_space_keeps_the_rules(arguments, size):
    check_search_space(Darts(**SMALL | arguments), [torch.randn(2, 3, size, size)], num_architectures=3)


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_derived_networks_are_those_built_fresh_in_both_stages(stage):
    space = Darts(**SMALL | {"auxiliary": True}, drop_path=0.2)
    genotype = space.parse_genotype(PDARTS)
    derived = nas.Supernet(space.network(stage)).derive(genotype)
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (derived, built(space, PDARTS, stage))]
    assert list(shapes[0].items()) == list(shapes[1].items())
    affine = {module.affine for cell in derived.cells for module in cell.modules() if hasattr(module, "affine")}
    assert affine == {stage == "retrain"}


@pytest.mark.parametrize(
    ("text", "auxiliary", "params"),
    [
        (DARTS_V2, False, 3_349_342),
        (DARTS_V2, True, 3_825_768),
        (PDARTS, False, 3_433_798),  # chenxin061/pdarts, issue 7
        (PDARTS, True, 3_910_224),
    ],
)
def test_cifar_counts_are_the_published_ones(text, auxiliary, params):
    net = built(Darts(auxiliary=auxiliary), text)
    assert num_params(net) == params
    if text == DARTS_V2:
        assert num_macs(net, [torch.zeros(1, 3, 32, 32)]) == 528_359_040


def test_supernet_has_the_published_number_of_parameters():
    assert num_params(Darts().network("search")) == 1_930_618  # what cnn/train_search.py prints


def test_imagenet_counts():
    net = built(Darts(channels=48, layers=14, num_classes=1000, dataset="imagenet"), DARTS_V2)
    head = num_params(net.auxiliary_head)
    assert head == 768 * 128 + 2 * 128 + 128 * 768 * 4 + 768 * 1000 + 1000
    assert round((num_params(net) - head) / 1e6, 1) == 4.7  # as in the paper


def test_number_of_architectures_is_that_of_the_paper():
    supernet = nas.Supernet(Darts().network("search"))
    assert supernet.num_architectures == (1 * 3 * 6 * 10 * 7**8) ** 2
    names = [name for name in supernet.choices if name.startswith("reduce.")]
    assert names[:6] == [
        "reduce.node0.from0",
        "reduce.node0.from1",
        "reduce.node1",
        "reduce.node1.from0",
        "reduce.node1.from1",
        "reduce.node1.from2",
    ]
    assert len(supernet.choices) == 2 * (14 + 3)
    assert supernet.choices["normal.node3.from4"] == OPS
    assert supernet.frozen == {f"{cell}.node{i}" for cell in ("normal", "reduce") for i in (1, 2, 3)}


# the network against one written by hand


def norm(x, w, key):
    return F.batch_norm(x, *(w[f"{key}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")))


def halved(x, w, key):
    x = F.relu(x)
    parts = [F.conv2d(x, w[f"{key}.1.conv1.weight"], stride=2)]
    parts.append(F.conv2d(x[:, :, 1:, 1:], w[f"{key}.1.conv2.weight"], stride=2))
    return norm(torch.cat(parts, 1), w, f"{key}.2")


def separable(x, w, key, first, stride, padding, dilation):
    kernel = w[f"{key}.{first + 1}.weight"]
    x = F.conv2d(F.relu(x), kernel, None, stride, padding, dilation, groups=len(kernel))
    return norm(F.conv2d(x, w[f"{key}.{first + 2}.weight"]), w, f"{key}.{first + 3}")


def operation(op, x, w, key, stride):
    if op == "skip_connect":
        return x if stride == 1 else halved(x, w, key)
    if op == "max_pool_3x3":
        return F.max_pool2d(x, 3, stride, 1)
    if op == "avg_pool_3x3":
        return F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)
    if op.startswith("dil_conv"):
        return separable(x, w, key, 0, stride, int(op[-1]) - 1, 2)
    padding = int(op[-1]) // 2
    return separable(separable(x, w, key, 0, stride, padding, 1), w, key, 4, 1, padding, 1)


def cell(edges, s0, s1, w, key, reduces, reduced):
    if reduced:
        s0 = halved(s0, w, f"{key}.preprocess0")
    else:
        s0 = norm(F.conv2d(F.relu(s0), w[f"{key}.preprocess0.1.weight"]), w, f"{key}.preprocess0.2")
    states = [s0, norm(F.conv2d(F.relu(s1), w[f"{key}.preprocess1.1.weight"]), w, f"{key}.preprocess1.2")]
    for i in range(len(edges) // 2):
        terms = [
            operation(op, states[j], w, f"{key}.nodes.{i}.branches.{position}", 2 if reduces and j < 2 else 1)
            for position, (op, j) in enumerate(edges[2 * i : 2 * i + 2])
        ]
        states.append(terms[0] + terms[1])
    return torch.cat(states[2:], 1)


def test_network_computes_what_one_written_by_hand_does():
    net = with_random_statistics(built(Darts(**SMALL | {"layers": 5}, num_nodes=2), text_of(TWO_NODES)))
    w, x = net.state_dict(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    s0 = s1 = norm(F.conv2d(x, w["stem0.0.weight"], padding=1), w, "stem0.1")
    for k, kind in enumerate(["normal", "reduce", "normal", "reduce", "normal"]):
        s0, s1 = s1, cell(TWO_NODES[kind], s0, s1, w, f"cells.{k}", kind == "reduce", k in (2, 4))
    logits = F.linear(s1.mean((2, 3)), w["classifier.weight"], w["classifier.bias"])
    torch.testing.assert_close(net(x), logits, rtol=1e-10, atol=1e-10)  # float64, a few hundred terms


def test_supernet_computes_the_published_double_sum():
    net = with_random_statistics(Darts(**SMALL, num_nodes=3).network("search"))
    supernet = nas.Supernet(net).double()
    weights = supernet.fill_input_rows(torch.rand_like(supernet.alpha))
    rows = dict(zip(supernet.choices, weights, strict=True))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    s0 = s1 = net.stem0(x)
    for k, made in enumerate(net.cells):
        states = [made.preprocess0(s0), made.preprocess1(s1)]
        for i, node in enumerate(made.nodes):
            edges = node.branches if i == 0 else node.candidates
            total = 0
            for j, edge in enumerate(edges):
                row = rows[f"{'normal' if k == 0 else 'reduce'}.node{i}.from{j}"]
                assert len(row) == len(edge.candidates) == 8
                total = total + sum(weight * op(states[j]) for weight, op in zip(row, edge.candidates, strict=True))
            states.append(total)
        s0, s1 = s1, torch.cat(states[2:], 1)
    logits = net.classifier(s1.mean((2, 3)))
    torch.testing.assert_close(supernet(x, op_weights=OpWeights(weights, None)), logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 6), (5, 7)])
def test_every_operation_halves_the_image_alike(height, width):
    x = torch.randn(1, 4, height, width)
    supernet = nas.Supernet(Darts(**SMALL).network("search"))
    edge = supernet.network.cells[1].nodes[0].branches[0]
    shapes = {tuple(op(x.repeat(2, 2, 1, 1)).shape) for op in edge.candidates}
    assert shapes == {(2, 8, (height + 1) // 2, (width + 1) // 2)}
    assert factorized_reduce(4, 3, affine=True)(x).shape == (1, 3, (height + 1) // 2, (width + 1) // 2)


# discretizing


def published_edges(rows, cell):
    """Of each node's edges the two with the best operation other than none, and those operations."""
    edges = []
    for i in range(4):
        best = [max((p, op) for op, p in rows[f"{cell}.node{i}.from{j}"].items() if op != "none") for j in range(i + 2)]
        kept = sorted(range(i + 2), key=lambda j: -best[j][0])[:2]
        edges += [(best[j][1], j) for j in sorted(kept)]
    return edges


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_discretizing_is_the_published_rule(seed):
    space = Darts(**SMALL)
    supernet = nas.Supernet(space.network("search"))
    torch.nn.init.normal_(supernet.alpha, generator=torch.Generator().manual_seed(seed))
    rows = supernet.probabilities()
    text = text_of({kind: published_edges(rows, kind) for kind in ("normal", "reduce")})
    assert space.format_genotype(supernet.discretize()) == text


# stages


def test_auxiliary_logits_come_while_training_only():
    space = Darts(**SMALL | {"auxiliary": True}, num_classes=7)
    net, x = built(space, DARTS_V1), torch.randn(2, 3, 32, 32)
    logits, auxiliary = net(x)
    assert logits.shape == auxiliary.shape == (2, 7)
    assert not torch.equal(logits, auxiliary)
    with torch.no_grad():
        assert net.eval()(x).shape == (2, 7)
    auxiliary.sum().backward()
    assert net.stem0[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in net.classifier.parameters())
    assert not any("auxiliary" in key for key in space.network("search").state_dict())
    assert built(Darts(**SMALL), DARTS_V1)(x).shape == (2, 10)


def test_auxiliary_head_names_the_image_size():
    net = built(Darts(**SMALL | {"auxiliary": True}), DARTS_V1)
    with pytest.raises(
        ValueError, match=r"^the auxiliary head needs images of 32 x 32, but got features of size \(4, 4\)"
    ):
        net(torch.randn(2, 3, 16, 16))


def test_drop_path_grows_with_progress_and_spares_identities():
    space = Darts(**SMALL, drop_path=0.4)
    net = built(space, DARTS_V2)
    drops = [module for module in net.modules() if isinstance(module, ScheduledDropPath)]
    assert len(drops) == 6 + 2 * 5  # a normal cell has two skip_connect; a reduction cell three, not strided
    strided = built(Darts(**SMALL, num_nodes=2, drop_path=0.4), text_of(TWO_NODES)).cells[1].nodes[0]
    assert isinstance(strided.branches[0][-1], ScheduledDropPath)
    assert [drop.probability for drop in drops] == [0.0] * 16
    for drop in drops:
        drop.set_progress(0.25)
    assert [drop.probability for drop in drops] == [0.1] * 16
    assert not any(isinstance(module, ScheduledDropPath) for module in space.network("search").modules())
    without = built(Darts(**SMALL), DARTS_V2)
    assert list(without.state_dict()) == list(net.state_dict())


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    drop, x = ScheduledDropPath(0.5), torch.ones(20_000, 2, 2)
    assert torch.equal(drop(x), x)
    drop.set_progress(0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = drop(x)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.unique().tolist() == [0.0, torch.tensor(1 / 0.75).item()]
    assert y.mean().item() == pytest.approx(1, abs=0.02)  # five standard deviations: sqrt(0.25 / 0.75 / 20,000) = 0.004
    assert torch.equal(drop.eval()(x), x)


# the published notation


def random_cells(draw):
    cells = {}
    for kind in ("normal", "reduce"):
        sources = [draw.choice(list(combinations(range(i + 2), 2))) for i in range(4)]
        cells[kind] = [(draw.choice(DERIVABLE), j) for pair in sources for j in pair]
    return cells


def test_random_genotypes_there_and_back():
    space, draw = Darts(), random.Random(0)
    seen = set()
    for _ in range(1000):
        cells = random_cells(draw)
        choices = {}
        for kind, edges in cells.items():
            for i in range(4):
                pair = edges[2 * i : 2 * i + 2]
                if i > 0:
                    choices[f"{kind}.node{i}"] = [f"from{j}" for _, j in pair]
                choices |= {f"{kind}.node{i}.from{j}": op for op, j in pair}
        text = text_of(cells)
        assert space.format_genotype(nas.Genotype(choices)) == text
        genotype = space.parse_genotype(text)
        assert genotype.choices == choices
        swapped = {
            kind: [edge for i in range(4) for edge in draw.sample(edges[2 * i : 2 * i + 2], 2)]
            for kind, edges in cells.items()
        }
        assert space.parse_genotype(text_of(swapped)) == genotype
        seen.add(text)
    assert len(seen) == 1000


def test_published_texts_fit_the_network():
    supernet = nas.Supernet(Darts(**SMALL).network("search"))
    for text in (DARTS_V1, DARTS_V2, PDARTS, DARTS_V2.replace("[2, 3, 4, 5]", "range(2, 6)"), f"\n {DARTS_V1}\n"):
        genotype = Darts().parse_genotype(text)
        assert supernet.prune(genotype) == genotype
        assert list(supernet.prune(genotype).choices) == list(genotype.choices)


FORM = r"expected Genotype\(normal=\[\.\.\.\], normal_concat=\[\.\.\.\], reduce=\[\.\.\.\], reduce_concat=\[\.\.\.\]\), got"
NORMAL = [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 2), ("avg_pool_3x3", 0)]
REDUCE = [("dil_conv_3x3", 0), ("dil_conv_5x5", 1), ("sep_conv_5x5", 2), ("skip_connect", 1)]


def two_nodes(normal=NORMAL, normal_concat="[2, 3]", reduce=REDUCE, reduce_concat="range(2, 4)"):
    return f"Genotype(normal={normal}, normal_concat={normal_concat}, reduce={reduce}, reduce_concat={reduce_concat})"


def edited(position, edge):
    return [edge if i == position else other for i, other in enumerate(REDUCE)]


BROKEN = [
    ("", rf"{FORM} text that cannot be parsed: ''"),
    ("Genotype(normal=[", rf"{FORM} text that cannot be parsed: 'Genotype\(normal=\['"),
    ("G = Genotype()", f"{FORM} text that cannot be parsed: 'G = Genotype"),
    ("-" * 100_000 + "1", f"{FORM} text that cannot be parsed: '---"),
    ("(" * 1000, rf"{FORM} text that cannot be parsed: '\(\(\("),
    ("\0", rf"{FORM} text that cannot be parsed: '\\x00'"),
    ("[1, 2]", rf"{FORM} '\[1, 2\]'"),
    ("Gene(normal=[])", rf"{FORM} 'Gene\(normal"),
    ("a.Genotype(normal=[])", rf"{FORM} 'a\.Genotype"),
    ("Genotype([], [], [], [])", rf"{FORM} 'Genotype\(\["),
    ("Genotype()", "expected the fields normal, normal_concat, reduce, reduce_concat, got none$"),
    ("Genotype(normal=[], reduce=[])", "expected the fields .*, got normal, reduce$"),
    (f"Genotype({', '.join(f'f{i}=0' for i in range(999))})", "expected the fields .*, got f0, f1, "),
    ("Genotype(**{})", "expected the fields .*, got None$"),
    (two_nodes()[:-1] + ", extra=1)", "expected the fields .*, got .*, extra$"),
    (two_nodes()[:-1] + ", normal=[])", "expected the fields .*, got normal, .*, normal$"),
    (two_nodes(reduce="open('x')"), r"reduce must be a list, or range\(first, last\), of plain values$"),
    (two_nodes(reduce="[x for x in []]"), "reduce must be a list, or range"),
    (two_nodes(normal="1 + " * 3000 + "1"), f"{FORM} text that cannot be parsed|normal must be a list, or range"),
    (two_nodes(normal_concat="range(4)"), "normal_concat must be a list, or range"),
    (two_nodes(normal_concat="range(2, 4, step=1)"), "normal_concat must be a list, or range"),
    (two_nodes(normal_concat="range('a', 4)"), "normal_concat must be a list, or range"),
    (two_nodes(normal="'sep_conv_3x3'"), r"normal must be a list of pairs \(operation, state\), got 'sep_conv_3x3'$"),
    (two_nodes(normal="[('sep_conv_3x3', 0, 1)]"), "normal must be a list of pairs"),
    (two_nodes(normal="[('sep_conv_3x3', True)] * 1"), "normal must be a list, or range"),
    (two_nodes(edited(0, ("sep_conv_3x3", True))), "normal must be a list of pairs"),
    (two_nodes(edited(0, ("sep_conv_3x3", 0.0))), "normal must be a list of pairs"),
    (two_nodes(edited(0, (3, 0))), "normal must be a list of pairs"),
    (two_nodes(normal_concat="[2]"), r"normal_concat must be all nodes, \[2, 3\], got \[2\]$"),
    (two_nodes(reduce_concat="range(2, 6)"), r"reduce_concat must be all nodes, \[2, 3\], got range\(2, 6\)$"),
    (two_nodes(reduce_concat="range(2, 10**9)"), r"reduce_concat must be"),
    (two_nodes(reduce_concat="range(2, 1000000000)"), r"reduce_concat must be all nodes, \[2, 3\], got range"),
    (two_nodes(reduce_concat="None"), r"reduce_concat must be all nodes, \[2, 3\], got None$"),
    (two_nodes(REDUCE[:3]), "normal: expected 2 edges for each of 2 nodes, got 3$"),
    (two_nodes(reduce=[*REDUCE, ("skip_connect", 0)]), "reduce: expected 2 edges for each of 2 nodes, got 5$"),
    (two_nodes(reduce=edited(1, ("none", 1))), "reduce: 'none' exists only while searching$"),
    (
        two_nodes(reduce=edited(1, ("conv", 1))),
        "reduce: unknown operation 'conv'; expected one of max_pool_3x3, .*_5x5$",
    ),
    (two_nodes(reduce=edited(1, ("a\nb", 1))), r"reduce: unknown operation 'a\\nb'; expected one of"),
    (two_nodes(reduce=edited(1, ("skip_connect", 2))), r"reduce\.node0 reads states 0 to 1, got 2$"),
    (two_nodes(reduce=edited(2, ("skip_connect", 3))), r"reduce\.node1 reads states 0 to 2, got 3$"),
    (two_nodes(edited(3, ("skip_connect", -1))), r"normal\.node1 reads states 0 to 2, got -1$"),
    (two_nodes(edited(3, ("skip_connect", 2))), r"normal\.node1 has both edges from state 2$"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_texts_are_refused_in_one_line(text, message):
    space = Darts(num_nodes=2)
    assert space.parse_genotype(two_nodes()).choices["normal.node1"] == ["from0", "from2"]
    with pytest.raises(ValueError, match=f"^DARTS genotype: (?:{message})") as error:
        space.parse_genotype(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normal.node1": None}, r"choice 'normal\.node1' must be a list of 2 of from0, from1, from2, got None$"),
        ({"normal.node1": ["from0"]}, r"choice 'normal\.node1' must be a list of 2 of .*, got \['from0'\]$"),
        ({"normal.node1": ["from0", "from3"]}, r"choice 'normal\.node1' must be"),
        ({"normal.node1": "from0"}, r"choice 'normal\.node1' must be a list of 2 of .*, got 'from0'$"),
        ({"reduce.node0.from1": None}, r"choice 'reduce\.node0\.from1' must be one of .*, got None$"),
        ({"reduce.node0.from1": "none"}, r"choice 'reduce\.node0\.from1' must be one of .*, got 'none'$"),
        ({"normal.node1.from1": "skip_connect"}, r"unknown or inactive choice 'normal\.node1\.from1'$"),
        ({"other": "skip_connect"}, "unknown or inactive choice 'other'$"),
    ],
)
def test_genotypes_of_other_spaces_are_not_formatted(changes, message):
    space = Darts(num_nodes=2)
    choices = {**space.parse_genotype(two_nodes()).choices, **changes}
    choices = {name: value for name, value in choices.items() if value is not None}
    with pytest.raises(ValueError, match=f"^DARTS genotype: {message}"):
        space.format_genotype(nas.Genotype(choices))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search_channels": 0}, "search_channels must be at least 1, got 0"),
        ({"num_nodes": 0}, "num_nodes must be at least 1, got 0"),
        ({"search_layers": 2}, "search_layers must be at least 3, so that there are cells of both kinds, got 2"),
        ({"layers": 2}, "layers must be at least 3, so that there are cells of both kinds, got 2"),
        ({"dataset": "mnist"}, "dataset must be one of cifar, imagenet, got 'mnist'"),
        ({"dataset": "imagenet", "channels": 1}, "channels must be at least 2 for imagenet, got 1"),
        ({"drop_path": 1.0}, "drop_path must be from 0 to below 1, got 1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^Darts: {message}$"):
        Darts(**arguments)
