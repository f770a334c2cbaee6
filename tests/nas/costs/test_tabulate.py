"""Costs of networks, their tables, and the most probable architecture within limits: against enumeration."""

import itertools
import math
import random

import pytest
import torch
from torch import nn

import nas
from nas.costs import count_activations, count_macs, num_macs, num_params
from nas.costs.limits import Infeasible, Limit, cheapest, most_expensive, most_probable
from nas.costs.table import CostTable, ExpectedCost, Term
from nas.costs.tabulate import CostModel, num_chosen
from nas.derive import Argmax, Searched
from nas.regularizers import ArchState
from nas.supernet.structure import random_choices
from nas.training.cost_penalty import CostPenalty
from search_spaces.darts import Darts
from search_spaces.dilation import DilationNet1d, DilationNet2d
from search_spaces.macro import MacroNet
from search_spaces.mobile import MobileNet
from search_spaces.nasbench201 import NASBench201
from search_spaces.tabular import TabularMLP

IMAGE = torch.randn(1, 3, 16, 16)


class Everything(nn.Module):
    """A width, a depth whose blocks hold choices, an input choice, a gate, a shared name, a nested choice, a tied product."""

    def __init__(self):
        super().__init__()
        width = nas.width("width", (2, 4))
        self.gate = nas.gate("features", lambda n: nn.Linear(n, 2 * width), size=2)
        self.read = nn.Linear(2 * width, 6)
        self.blocks = nas.repeat("depth", self._block, (0, 1, 2))
        ops = {"none": nas.supernet.candidates.Zero, "linear": lambda: nn.Linear(6, 6), "skip": nn.Identity}
        edges = {
            f"from{j}": lambda j=j: nas.choice(f"edge{j}", ops, shared=True, search_only=("none",)) for j in range(3)
        }
        self.nodes = nn.ModuleList(nas.inputs("node", edges, 2, learned=False, shared=True) for _ in range(2))
        inner = nas.choice("inner", {"big": nn.Linear(5, 7), "small": nn.Linear(5, 7, bias=False)})
        deep = nn.Sequential(nn.Linear(6, 5), inner, nn.Linear(7, 6))
        self.nested = nas.choice("outer", {"deep": deep, "flat": nn.Identity()})
        self.head = nn.Parameter(torch.randn(6, 2))

    @staticmethod
    def _block(i):
        return nas.choice(f"block{i}", {"linear": lambda: nn.Linear(6, 6), "tanh": nn.Tanh})

    def forward(self, x):
        x = self.blocks(self.read(self.gate(x)))
        for node in self.nodes:
            x = node([x, x + 1, x.relu()])
        return self.nested(x) @ self.head


SPACES = {
    "everything": (Everything, torch.randn(1, 2)),
    "dilation1d": (DilationNet1d(2, 4, (1, 2, 4), kernel_sizes=(3, 5)).network, torch.randn(1, 1, 16)),
    "dilation2d": (DilationNet2d(2, 4, (1, 2), kernel_sizes=(3, 5), depthwise=True).network, torch.randn(1, 1, 8, 8)),
    "nasbench201": (NASBench201(4, 1).network, IMAGE),
    "macro": (MacroNet(4).network, IMAGE),
    "mobile": (MobileNet(stages=[(8, 2, 2), (12, 2, 1)], squeeze_excite=(False, True), num_classes=10).network, IMAGE),
    "darts": (Darts(4, 3, 4, 3, auxiliary=False).network, IMAGE),
    "tabular": (TabularMLP(6, 3, widths=(4, 8), depths=(0, 1, 2)).network, torch.randn(1, 6)),
}


@pytest.fixture(scope="module", params=SPACES, ids=str)
def tables(request):
    network, x = SPACES[request.param]
    supernet = nas.Supernet(network())
    model = CostModel(supernet, [x])
    costs = {"params": num_params, "macs": count_macs, "activations": count_activations}
    return supernet, x, {name: (model.table(name, cost), cost) for name, cost in costs.items()}


@pytest.mark.parametrize("number", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_tables_equal_what_is_counted_on_random_architectures(tables, number):
    supernet, x, each = tables
    for seed in range(number):
        choices = random_choices(supernet.network, seed)
        derived = supernet.derive(choices)
        for name, (table, cost) in each.items():
            assert table.of(choices) == cost(derived, [x]), (name, choices)


def test_tables_survive_json(tables):
    for table, _ in tables[2].values():
        assert CostTable.from_json(table.to_json()) == table


def test_tabulating_leaves_no_trace():
    torch.manual_seed(0)
    supernet = nas.Supernet(MacroNet(4).network())
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    state = torch.get_rng_state()
    CostModel(supernet, [IMAGE]).table("macs", count_macs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in supernet.modules())


def all_choices():
    """Every architecture of Everything, by hand."""
    kept = [{"features.0": a, "features.1": b} for a, b in (("keep", "keep"), ("keep", "drop"), ("drop", "keep"))]
    depths = [{"depth": "0"}]
    depths += [{"depth": "1", "block0": a} for a in ("linear", "tanh")]
    depths += [{"depth": "2", "block0": a, "block1": b} for a, b in itertools.product(("linear", "tanh"), repeat=2)]
    nodes = [
        {"node": [f"from{i}", f"from{j}"], f"edge{i}": a, f"edge{j}": b}
        for i, j in itertools.combinations(range(3), 2)
        for a, b in itertools.product(("linear", "skip"), repeat=2)
    ]
    nested = [{"outer": "flat"}, *({"outer": "deep", "inner": size} for size in ("big", "small"))]
    widths = [{"width": "2"}, {"width": "4"}]
    return [
        {name: value for part in parts for name, value in part.items()}
        for parts in itertools.product(kept, depths, nodes, nested, widths)
    ]


@pytest.fixture(scope="module")
def everything():
    network = Everything()
    supernet = nas.Supernet(network)
    model = CostModel(supernet, [torch.randn(1, 2)])
    tables = {"macs": model.table("macs", count_macs), "params": model.table("params", num_params)}
    architectures = all_choices()
    assert supernet.num_architectures == len(architectures) == 1512
    return network, supernet, architectures, tables


def log_probability(choices, probabilities, resting):
    return sum(
        math.log(probabilities[name][label])
        for name, value in choices.items()
        if name not in resting
        for label in ([value] if isinstance(value, str) else value)
    )


@pytest.mark.parametrize("seed", range(20))
def test_most_probable_within_limits_equals_brute_force(everything, seed):
    network, supernet, architectures, tables = everything
    draw = random.Random(seed)
    probabilities = {name: {label: draw.random() for label in labels} for name, labels in supernet.choices.items()}
    limits = []
    for table in draw.sample(list(tables.values()), draw.choice((1, 2))):
        # just kept by one architecture, or just not
        limits.append(Limit(table, table.of(draw.choice(architectures)) - draw.choice((0, 0.5, 1))))
    allowed = [c for c in architectures if all(limit.table.of(c) <= limit.max for limit in limits)]
    if not allowed:
        with pytest.raises(Infeasible):
            most_probable(network, probabilities, limits)
        return
    found = most_probable(network, probabilities, limits)
    assert found in allowed
    best = max(log_probability(c, probabilities, supernet.frozen) for c in allowed)
    assert log_probability(found, probabilities, supernet.frozen) == pytest.approx(best, abs=1e-9)


def test_cheapest_and_dearest_equal_brute_force(everything):
    network, _, architectures, tables = everything
    for table in tables.values():
        costs = [table.of(choices) for choices in architectures]
        assert table.of(cheapest(network, table)) == min(costs)
        assert table.of(most_expensive(network, table)) == max(costs)
    macs, params = tables["macs"], tables["params"]
    limit = Limit(params, sorted(params.of(c) for c in architectures)[50])
    assert macs.of(cheapest(network, macs, [limit])) == min(
        macs.of(c) for c in architectures if params.of(c) <= limit.max
    )


@pytest.mark.parametrize(
    "make", [NASBench201(4, 1), MacroNet(4, stages=(2, 2)), DilationNet1d(2, 4, (1, 2, 4), kernel_sizes=(3, 5))]
)
def test_brute_force_on_shipped_spaces(make):
    network = make.network()
    supernet = nas.Supernet(network)
    x = torch.randn(1, 1, 16) if isinstance(make, DilationNet1d) else IMAGE
    table = CostModel(supernet, [x]).table("params", num_params)
    names = list(supernet.choices)
    assert supernet.num_architectures <= 15_625
    everything = [dict(zip(names, labels, strict=True)) for labels in itertools.product(*supernet.choices.values())]
    everything = [c for c in everything if alive(make, c)]
    costs = {str(c): table.of(c) for c in everything}
    draw = random.Random(0)
    for _ in range(5):
        probabilities = {name: {label: draw.random() for label in labels} for name, labels in supernet.choices.items()}
        limit = Limit(table, draw.choice(list(costs.values())))
        best = max(log_probability(c, probabilities, ()) for c in everything if costs[str(c)] <= limit.max)
        found = most_probable(network, probabilities, [limit], make.check_genotype)
        assert log_probability(found, probabilities, ()) == pytest.approx(best, abs=1e-9)


def alive(space, choices):
    try:
        space.check_genotype(choices)
    except ValueError:
        return False
    return True


def test_a_limit_that_nothing_keeps_names_the_smallest_cost(everything):
    network, supernet, architectures, tables = everything
    even = {name: dict.fromkeys(labels, 0.5) for name, labels in supernet.choices.items()}
    least = min(tables["macs"].of(c) for c in architectures)
    with pytest.raises(
        Infeasible, match=f"no architecture has macs of at most {least - 1:.0f}; the smallest is {least:.0f}"
    ):
        most_probable(network, even, [Limit(tables["macs"], least - 1)])
    one = Limit(CostTable("a", 0, (Term({"outer": frozenset({"deep"})}, 1.0),)), 0.5)
    other = Limit(CostTable("b", 0, (Term({"outer": frozenset({"flat"})}, 1.0),)), 0.5)
    with pytest.raises(
        Infeasible,
        match=r"no architecture has a of at most 0\.5 with b of at most 0\.5; the smallest possible value is 1",
    ):
        most_probable(network, even, [one, other])


def test_derived_architecture_that_makes_no_sense_is_passed_over():
    space = NASBench201(4, 1)
    supernet = nas.Supernet(space.network())
    with torch.no_grad():
        supernet.alpha[:, 0] = 5.0  # none everywhere
        supernet.alpha[2, 1] = 4.0
    found = Argmax().genotype(Searched(supernet=supernet, relaxation=nas.relaxations.Softmax(), space=space))
    space.check_genotype(found.choices)
    assert sum(label != "none" for label in found.choices.values()) == 1


@pytest.fixture(scope="module")
def flat():
    """Independent choices only, where the expectation is a plain sum over architectures."""
    network = nn.Sequential(
        nn.Linear(3, w := nas.width("w", (2, 4))),
        nn.Linear(w, v := nas.width("v", (1, 3))),
        nn.Linear(v, 4),
        nas.choice("op", {"big": lambda: nn.Linear(4, 4), "small": nn.Tanh}),
        nas.repeat("depth", lambda i: nas.choice(f"b{i}", {"x": lambda: nn.Linear(4, 4), "y": nn.ReLU}), (1, 2)),
    )
    supernet = nas.Supernet(network)
    return supernet, CostModel(supernet, [torch.randn(1, 3)]).table("macs", count_macs)


def flat_choices():
    for w, v, op, depth in itertools.product("24", "13", ("big", "small"), "12"):
        for blocks in itertools.product("xy", repeat=int(depth)):
            inner = {f"b{i}": label for i, label in enumerate(blocks)}
            yield {"w": w, "v": v, "op": op, "depth": depth, **inner}


def test_expected_cost_equals_the_sum_over_architectures(flat):
    supernet, table = flat
    expected = ExpectedCost(table, supernet.choices, num_chosen(supernet))
    probabilities = torch.rand(supernet.alpha.shape, dtype=torch.float64)
    probabilities /= probabilities.sum(-1, keepdim=True)
    rows = dict(zip(supernet.choices, probabilities.tolist(), strict=True))
    total = 0.0
    for choices in flat_choices():
        p = math.prod(rows[n][supernet.choices[n].index(label)] for n, label in choices.items())
        total += p * table.of(choices)
    assert float(expected(probabilities)) == pytest.approx(total, rel=1e-12)


def test_expected_cost_of_one_hot_weights_is_the_tables_cost(everything):
    _, supernet, architectures, tables = everything
    for table in tables.values():
        expected = ExpectedCost(table, supernet.choices, num_chosen(supernet))
        for choices in architectures[:100]:
            weights = supernet.one_hot(choices).weights
            assert float(expected(weights)) == pytest.approx(table.of(choices), rel=1e-12)


def test_gradient_of_the_expected_cost_is_that_of_finite_differences(flat):
    supernet, table = flat
    expected = ExpectedCost(table, supernet.choices, {})
    probabilities = torch.rand(supernet.alpha.shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(expected, (probabilities,))


def test_the_penalty_pulls_only_above_the_limit(flat):
    supernet, table = flat
    expected = ExpectedCost(table, supernet.choices, {})

    def penalty(limit):
        alpha = supernet.alpha.detach().double().requires_grad_()
        probabilities = nas.relaxations.Softmax().probabilities(alpha, supernet.mask)
        state = ArchState(supernet.choices, alpha, supernet.mask, probabilities, torch.tensor(1.0), 0.0)
        value = CostPenalty(expected, limit, 2.0).penalty(state)
        (gradient,) = torch.autograd.grad(value, alpha)
        return value.item(), gradient, expected(probabilities).item()

    value, gradient, cost = penalty(10.0)
    assert value == pytest.approx(2 * (cost / 10 - 1))
    row = list(supernet.choices).index("op")
    assert gradient[row, 0] > 0 > gradient[row, 1], "descending must move away from the dearer candidate"
    value, gradient, _ = penalty(1e9)
    assert value == 0 and gradient.abs().sum() == 0


def test_a_module_used_under_two_choices_is_refused():
    same = nn.Linear(3, 3)
    network = nn.Sequential(*[nas.choice(n, {"a": same, "b": nn.Identity()}) for n in "xy"])
    with pytest.raises(
        ValueError, match=r"one module is used under two choices, at '0\.candidates\.0' and '1\.candidates\.0'"
    ):
        CostModel(nas.Supernet(network), [torch.randn(1, 3)])


def test_a_gated_module_whose_cost_is_not_linear_is_refused():
    gate = nas.gate("g", lambda n: nn.Sequential(nn.Linear(n, n), nn.AdaptiveAvgPool1d(1)), size=4)
    model = CostModel(nas.Supernet(nn.Sequential(gate)), [torch.randn(1, 4)])
    with pytest.raises(ValueError, match="gate 'g': its cost is not linear"):
        model.table("params", num_params)


def test_keyword_arguments_and_repeated_calls_are_counted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nas.choice("att", {"a": lambda: Attention(1), "b": lambda: Attention(2)})

        def forward(self, x):
            return self.attention(self.attention(x, scale=2.0), scale=1.0)

    class Attention(nn.Module):
        def __init__(self, num):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(num))

        def forward(self, x, *, scale):
            for layer in self.layers:
                x = layer(x) * scale
            return x @ x.transpose(-1, -2) @ x

    supernet, x = nas.Supernet(Net()), torch.randn(1, 5, 4)
    model = CostModel(supernet, [x])
    macs, params = model.table("macs", count_macs), model.table("params", num_params)
    for label, number in (("a", 1), ("b", 2)):
        derived = supernet.derive({"att": label})
        assert macs.of({"att": label}) == num_macs(derived, [x]) == 2 * (number * 80 + 200)
        assert params.of({"att": label}) == num_params(derived) == number * 20


def test_counts_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    x = torch.randn(1, 3, 4, 4)
    assert count_macs(net, [x]) == 8 * 3 * 9 * 16 + 8 * 16 * 5
    assert count_activations(net, [x]) == 8 * 16 + 5
    assert num_macs(net, [x.repeat(3, 1, 1, 1)]) == count_macs(net, [x])


def test_small_differences_beside_a_large_term_are_seen():
    """The solver's own tolerances are absolute; one of 1e9 among numbers of 1 to 500 must not hide these."""
    network = nn.ModuleList(nas.choice(f"c{i}", {label: nn.Identity() for label in "abc"}) for i in range(6))
    for seed in range(20):
        draw = random.Random(seed)
        terms = [
            Term({f"c{i}": frozenset({label})}, float(draw.randint(1, 500) if i else draw.randint(10**9, 10**9 + 500)))
            for i in range(6)
            for label in "abc"
        ]
        table = CostTable("cost", 0.0, tuple(terms))
        assignments = [
            dict(zip((f"c{i}" for i in range(6)), labels, strict=True)) for labels in itertools.product("abc", repeat=6)
        ]
        costs = [table.of(choices) for choices in assignments]
        assert table.of(cheapest(network, table)) == min(costs)
        assert table.of(most_expensive(network, table)) == max(costs)
        probabilities = {f"c{i}": {label: draw.random() for label in "abc"} for i in range(6)}
        limit = Limit(table, min(costs) + 1)
        best = max(
            log_probability(c, probabilities, ())
            for c, cost in zip(assignments, costs, strict=True)
            if cost <= limit.max
        )
        found = most_probable(network, probabilities, [limit])
        assert log_probability(found, probabilities, ()) == pytest.approx(best, abs=1e-12)


def test_modules_that_look_alike_and_work_otherwise_are_told_apart():
    class Applied(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    ops = {"relu": Applied(lambda x: x.relu()), "product": Applied(lambda x: (x @ x.mT) @ x)}
    x = torch.randn(1, 3, 4)
    supernet = nas.Supernet(nas.choice("op", ops))
    table = CostModel(supernet, [x]).table("macs", count_macs)
    assert [table.of({"op": label}) for label in ops] == [0, 72]


@pytest.mark.parametrize("kind", ["shared", "functional", "nan"])
def test_costs_that_do_not_add_up_are_refused(kind):
    def attention(w):
        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.v = nn.Linear(4, w), nn.Linear(w, 4)

            def forward(self, x):
                q = self.q(x)
                return self.v((q @ q.mT) @ q)

        return Attention()

    same = nn.Linear(4, 4)
    networks = {
        "shared": lambda: nn.Sequential(
            nas.choice("a", {"x": nn.Sequential(same, nn.ReLU()), "y": nn.Identity()}),
            nas.choice("b", {"x": nn.Sequential(same, nn.Tanh()), "y": nn.Identity()}),
        ),
        "functional": lambda: attention(nas.width("w", (2, 4))),
        "nan": lambda: nas.choice("a", {"x": nn.Linear(4, 4), "y": nn.Identity()}),
    }
    cost = {"shared": num_params, "functional": count_macs, "nan": lambda module, inputs: float("nan")}[kind]
    model = CostModel(nas.Supernet(networks[kind]()), [torch.randn(1, 3, 4)])
    with pytest.raises(
        ValueError, match="must be a finite number" if kind == "nan" else "does not add up over candidates"
    ):
        model.table("cost", cost)


def test_what_a_label_adds_is_the_sum_of_what_it_brings():
    width = nas.width("w", (4, 8))
    network = nn.Sequential(
        nn.Linear(3, width), nas.repeat("depth", lambda i: nn.Linear(width, width), (0, 1, 2)), nn.Linear(width, 2)
    )
    table = CostModel(nas.Supernet(network), [torch.randn(1, 3)]).table("params", num_params)
    assert table.largest("depth", "2") == 2 * (8 * 8 + 8)
    assert table.largest("w", "8") == table.of({"w": "8", "depth": "2"}) - table.fixed


def test_conditions_that_hold_together_add_up():
    """Sets of labels may overlap, as those of a depth do; by enumeration of all nine architectures."""
    labels = dict.fromkeys("xyz", nn.Identity)
    network = nn.Sequential(nas.choice("a", labels), nas.choice("b", labels))
    terms = [("x", "xy", -1.0), ("x", "yz", -1.0), ("y", "z", -1.5), ("z", "xyz", -0.5), ("z", "y", -1.0)]
    table = CostTable("cost", 3.0, tuple(Term({"a": frozenset(a), "b": frozenset(b)}, value) for a, b, value in terms))
    every = [{"a": a, "b": b} for a in "xyz" for b in "xyz"]
    assert cheapest(network, table) == min(every, key=table.of) == {"a": "x", "b": "y"}
    assert table.of(most_expensive(network, table)) == max(map(table.of, every))
