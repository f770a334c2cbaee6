import pytest
import torch
from torch.nn import functional as F

import nas
from nas.costs import num_params
from nas.relaxations import OpWeights
from search_spaces.cells import CellSpace
from search_spaces.darts import DARTS_V2, Darts
from search_spaces.partial_channels import PartialChannels, PartialEdge

SMALL = {"search_channels": 4, "search_layers": 3, "channels": 4, "layers": 3, "auxiliary": False}


def shuffled(x, groups):
    """The channel shuffle of PC-DARTS' code."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


def by_hand(edge, row, x, proportion, stride):
    part = x.shape[1] // proportion
    ops = edge.op.candidates
    mixed = sum(weight * op(x[:, :part]) for weight, op in zip(row, ops, strict=True))
    rest = x[:, part:] if stride == 1 else F.max_pool2d(x[:, part:], 2, 2)
    return shuffled(torch.cat([mixed, rest], 1), proportion)


def test_supernet_has_the_published_number_of_parameters():
    assert num_params(PartialChannels(Darts()).network()) == 299_578  # what train_search.py of PC-DARTS prints


@pytest.mark.parametrize("proportion", [2, 4])
def test_supernet_computes_what_is_published(proportion):
    net = PartialChannels(Darts(**SMALL, num_nodes=3), proportion).network("search")
    supernet = nas.Supernet(net).double().eval()
    torch.nn.init.normal_(supernet.alpha)
    weights = supernet.fill_input_rows(torch.rand_like(supernet.alpha)).detach()
    rows = dict(zip(supernet.choices, weights, strict=True))
    edge_logits = {name: supernet.alpha[row].detach() for row, name in enumerate(supernet.choices)}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    s0 = s1 = net.stem0(x)
    for k, cell in enumerate(net.cells):
        kind = "normal" if k == 0 else "reduce"
        states = [cell.preprocess0(s0), cell.preprocess1(s1)]
        for i, node in enumerate(cell.nodes):
            edges = node.branches if i == 0 else node.candidates
            worth = 2 * edge_logits.get(f"{kind}.node{i}", torch.zeros(2))[: i + 2].softmax(0)  # sums to two edges
            total = 0
            for j, edge in enumerate(edges):
                row = rows[f"{kind}.node{i}.from{j}"]
                stride = 2 if k > 0 and j < 2 else 1
                total = total + worth[j] * by_hand(edge, row, states[j], proportion, stride)
            states.append(total)
        s0, s1 = s1, torch.cat(states[2:], 1)
    logits = net.classifier(s1.mean((2, 3)))
    # float64, a few thousand terms
    torch.testing.assert_close(supernet(x, op_weights=OpWeights(weights, None)), logits, rtol=1e-10, atol=1e-10)


def test_decisions_are_those_of_the_wrapped_space():
    plain, partial = nas.Supernet(Darts().network()), nas.Supernet(PartialChannels(Darts()).network())
    assert partial.choices == plain.choices
    assert partial.num_architectures == (1 * 3 * 6 * 10 * 7**8) ** 2
    assert len(plain.frozen) == 6
    assert not partial.frozen
    space = PartialChannels(Darts())
    space.network()
    assert not space.space.learned_edges  # the wrapped space is left as it was
    assert not any(isinstance(module, PartialEdge) for module in space.space.network().modules())


@pytest.mark.parametrize("stage", ["search", "retrain"])
def test_networks_of_one_architecture_are_those_of_the_wrapped_space(stage):
    darts = Darts(**SMALL, num_nodes=4)
    with nas.architecture(PartialChannels(darts).parse_genotype(DARTS_V2)):
        nets = [space.network(stage) for space in (darts, PartialChannels(darts, 2))]
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in nets]
    assert shapes[0] == shapes[1]
    assert [type(module) for module in nets[0].modules()] == [type(module) for module in nets[1].modules()]
    assert PartialChannels.inherits_weights is False


class OneEdge(CellSpace):
    """Another space of cells, whose edges are not chosen."""

    def network(self, stage="search"):
        with nas.scope("cell"):
            return self.edge("edge", 6, 1, stage)

    def check_genotype(self, choices):
        if choices["cell.edge"] == "b":
            raise ValueError("b")

    def edge(self, name, channels, stride, stage):
        return nas.choice(name, {"a": torch.nn.Conv2d(channels, channels, 1), "b": torch.nn.Identity()})


def test_any_space_of_cells_can_be_wrapped():
    space = PartialChannels(OneEdge(), 3)
    supernet = nas.Supernet(space.network())
    assert supernet.choices == {"cell.edge": ("a", "b")}
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(supernet(x, op_weights=supernet.one_hot({"cell.edge": "b"})), shuffled(x, 3))
    with nas.architecture({"cell.edge": "a"}):
        assert space.network().weight.shape == (6, 6, 1, 1)
    space.check_genotype({"cell.edge": "a"})
    with pytest.raises(ValueError, match=r"^b$"):
        space.check_genotype({"cell.edge": "b"})


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5)])
def test_channels_that_pass_are_pooled_to_the_size_of_the_others(height, width):
    edge = PartialEdge(torch.nn.MaxPool2d(3, 2, 1), 8, 2, proportion=4)
    y = edge(torch.randn(2, 8, height, width))
    assert y.shape == (2, 8, (height + 1) // 2, (width + 1) // 2)


def test_edges_are_worth_their_logit_times_their_best_operation():
    supernet = nas.Supernet(PartialChannels(Darts(**SMALL)).network())
    torch.nn.init.normal_(supernet.alpha, generator=torch.Generator().manual_seed(0))
    rows, choices = supernet.probabilities(), supernet.discretize().choices
    for kind in ("normal", "reduce"):
        for i in (1, 2, 3):
            worth = {
                label: p * max(q for op, q in rows[f"{kind}.node{i}.{label}"].items() if op != "none")
                for label, p in rows[f"{kind}.node{i}"].items()
            }
            assert choices[f"{kind}.node{i}"] == sorted(sorted(worth, key=worth.__getitem__)[-2:])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^PartialChannels: proportion must be at least 2, got 1$"):
        PartialChannels(Darts(), 1)
    with pytest.raises(ValueError, match=r"^PartialChannels: space must be a CellSpace, got dict$"):
        PartialChannels({})
    space = PartialChannels(Darts(**SMALL), 3)
    with pytest.raises(
        ValueError, match=r"^PartialChannels: proportion must divide the channels, got 3 for 4 channels$"
    ):
        space.network()
    with nas.architecture(space.space.parse_genotype(DARTS_V2)):
        assert num_params(space.network("retrain")) > 0  # nothing is divided there
