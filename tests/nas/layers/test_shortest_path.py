import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import bellman_ford, dijkstra

import nas
from nas.layers import ShortestPath, grid_edges
from nas.relaxations import GumbelSoftmax

RIGHT_AND_DOWN = ((0, 1), (1, 0))
DIAMOND = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=generator(seed))


def walks(edges, source, target, max_edges):
    """Numbers of the edges of all walks that end when they first reach the target."""
    every, open_walks = [], [([], source)]
    for _ in range(max_edges):
        open_walks = [
            ([*walk, number], end)
            for walk, node in open_walks
            for number, (start, end) in enumerate(edges)
            if start == node != target
        ]
        every += [walk for walk, node in open_walks if node == target]
    return every


def matrix(edges, costs, number):
    return coo_matrix((costs, tuple(zip(*edges, strict=True))), shape=(number, number)).tocsr()


def is_path(edges, taken, source, target):
    """Whether edges, in some order, lead from the source to the target, each node entered once."""
    following = dict(pair for pair, is_taken in zip(edges, taken, strict=True) if is_taken)
    node, length = source, 0
    while node != target and node in following:
        node, length = following[node], length + 1
    return node == target and length == int(taken.sum())


@pytest.mark.parametrize(
    ("edges", "target", "max_edges"),
    [
        (DIAMOND, 3, None),
        (grid_edges(3, 3, RIGHT_AND_DOWN).tolist(), 8, None),
        (grid_edges(3, 3, (*RIGHT_AND_DOWN, (1, 1))).tolist(), 8, None),
        (grid_edges(2, 3).tolist(), 5, 7),
        ([(0, 1), (1, 0), (1, 1), (0, 1), (1, 2)], 2, 5),
    ],
    ids=["diamond", "grid", "alignment", "cycles", "loops and double edges"],
)
def test_soft_minimum_and_probabilities_by_enumeration(edges, target, max_edges):
    """The sum over walks of exp(-cost / tau), and the expected number of times that an edge is taken."""
    layer = ShortestPath(edges, 0, target, tau=0.4, max_edges=max_edges)
    every = walks(edges, 0, target, layer.max_edges)
    assert every and (max_edges is not None or max(map(len, every)) == layer.max_edges)
    counts = torch.tensor([[walk.count(number) for number in range(len(edges))] for walk in every]).double()
    costs = draw(2, 3, len(edges)).requires_grad_()
    totals = costs @ counts.T
    path = layer(costs)
    torch.testing.assert_close(path.cost, -0.4 * torch.logsumexp(-totals / 0.4, -1))
    torch.testing.assert_close(path.edges, torch.softmax(-totals / 0.4, -1) @ counts)
    (gradient,) = torch.autograd.grad(path.cost.sum(), costs, retain_graph=True)
    torch.testing.assert_close(gradient, path.edges)


def test_gradients_by_finite_differences():
    for edges, target in ((DIAMOND, 3), (grid_edges(2, 2), 3)):
        layer = ShortestPath(edges, 0, target, tau=0.5)
        costs = draw(2, len(edges)).requires_grad_()
        assert torch.autograd.gradcheck(layer, costs) and torch.autograd.gradgradcheck(layer, costs)


@given(st.integers(2, 7), st.floats(0.2, 1.0), st.integers(0, 10**6), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_hard_path_is_scipys(number, density, seed, is_acyclic, has_ties):
    """Acyclic graphs with costs of both signs, others with positive costs; whole numbers make ties."""
    rng = np.random.default_rng(seed)
    pairs = [(a, b) for a, b in itertools.permutations(range(number), 2) if a < b or not is_acyclic]
    edges = [pair for pair in pairs if rng.random() < density]
    assume(edges)
    costs = rng.integers(1, 4, len(edges)).astype(float) if has_ties else rng.uniform(0.1, 1.0, len(edges))
    if is_acyclic:
        costs = costs - 1.55  # never 0, which a sparse matrix would leave out
    graph = matrix(edges, costs, number)
    expected = (bellman_ford if is_acyclic else dijkstra)(graph, indices=0)[number - 1]
    if np.isinf(expected):
        with pytest.raises(ValueError, match=f"no path leads from node 0 to node {number - 1}"):
            ShortestPath(edges, 0, number - 1)
        return
    layer = ShortestPath(edges, 0, number - 1, tau=1e-3)
    path = layer.eval()(torch.from_numpy(costs))
    assert float(path.cost) == pytest.approx(expected)
    assert is_path(edges, path.edges, 0, number - 1)
    assert float(path.edges @ torch.from_numpy(costs)) == pytest.approx(expected)
    assert float(layer.train()(torch.from_numpy(costs)).cost) == pytest.approx(expected, abs=0.02)  # tau * log(paths)


def test_the_soft_minimum_tends_to_the_cheapest_path_from_below():
    edges = grid_edges(4, 4)
    layer, costs = ShortestPath(edges, 0, 15), 0.5 + draw(6, len(edges))
    hard = layer.eval()(costs)
    errors = []
    for tau in (0.5, 0.1, 0.01, 0.001):
        layer.train().tau = tau
        soft = layer(costs)
        assert (soft.cost <= hard.cost + 1e-12).all()
        errors.append(float((soft.edges - hard.edges).abs().max()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


def test_hard_samples_are_paths_with_these_probabilities():
    edges = grid_edges(3, 3, RIGHT_AND_DOWN)
    costs = draw(len(edges)).expand(20_000, -1)
    expected = ShortestPath(edges, 0, 8, tau=0.3)(costs[0]).edges
    supernet = nas.Supernet(ShortestPath(edges, 0, 8, tau=0.3))
    found = supernet(costs, op_weights=supernet.sample(GumbelSoftmax(hard=True), 0.7, generator=generator()))
    assert all(is_path(edges.tolist(), taken, 0, 8) for taken in found.edges[:200])
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((found.edges.mean(0) - expected).abs() <= 4 * error + 1e-9).all()  # standard errors
    torch.testing.assert_close(found.cost, (found.edges * costs).sum(-1))


def test_samples_carry_a_gradient():
    edges = grid_edges(3, 3)
    supernet = nas.Supernet(ShortestPath(edges, 0, 8))

    def sampled(costs):
        return supernet(costs, op_weights=supernet.sample(GumbelSoftmax(), 0.8, generator=generator()))

    assert torch.autograd.gradcheck(sampled, draw(len(edges)).requires_grad_())


def test_ties_and_trivial_graphs():
    layer = ShortestPath([(0, 1), (0, 2), (2, 1), (0, 1)], 0, 1)
    equal = torch.tensor([2.0, 1.0, 1.0, 2.0])
    torch.testing.assert_close(layer(equal).edges, torch.full((4,), 1 / 3))
    hard = layer.eval()(equal)
    assert hard.edges.tolist() == [1.0, 0.0, 0.0, 0.0] and float(hard.cost) == 2.0
    here = ShortestPath([(0, 1)], 0, 0)(torch.tensor([[3.0]]))
    assert here.edges.tolist() == [[0.0]] and here.cost.tolist() == [0.0]
    assert ShortestPath(DIAMOND, 0, 3)(torch.ones(0, 5)).edges.shape == (0, 5)
    huge = ShortestPath(DIAMOND, 0, 3)(torch.full((5,), 3e38))  # the paths of two edges cost infinity
    assert huge.edges.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0] and float(huge.cost) == pytest.approx(3e38)


def test_sixteen_bits_are_computed_in_float32():
    costs = draw(4, 5)
    layer = ShortestPath(DIAMOND, 0, 3, tau=0.5)
    found = layer(costs.bfloat16())
    assert found.cost.dtype == found.edges.dtype == torch.float32
    torch.testing.assert_close(found.cost, layer(costs.bfloat16().double()).cost.float())


def test_a_limit_on_edges_leaves_out_longer_paths():
    costs = torch.tensor([1.0, 1.0, 1.0, 1.0, 9.0])
    assert float(ShortestPath(DIAMOND, 0, 3).eval()(costs).cost) == 2.0
    assert float(ShortestPath(DIAMOND, 0, 3, max_edges=1).eval()(costs).cost) == 9.0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: ShortestPath([], 0, 1), "the graph has no edges"),
        (lambda: ShortestPath([(1, 0)], 0, 1), "no path leads from node 0 to node 1"),
        (lambda: ShortestPath([(0, 1)], 0, 5), "no path leads from node 0 to node 5"),
        (
            lambda: ShortestPath([(0, 1), (1, 2)], 0, 2, max_edges=1),
            "no path of at most 1 edges leads from node 0 to node 2",
        ),
        (lambda: ShortestPath([(0, -1)], 0, 1), "numbers of nodes must be at least 0"),
        (lambda: ShortestPath(DIAMOND, 0, 3, tau=0.0)(torch.ones(5)), "tau must be above 0"),
        (lambda: ShortestPath(DIAMOND, 0, 3)(torch.ones(4)), r"costs must have shape \(..., 5\), got \(4,\)"),
        (lambda: ShortestPath(DIAMOND, 0, 3)(torch.full((5,), torch.nan)), "costs hold NaN or infinity"),
        (lambda: ShortestPath([(0, 1), (1, 2)], 0, 2)(torch.full((2,), 3e38)), "the cost of a path overflows"),
        (lambda: ShortestPath([(0, 1), (1, 0), (1, 2)], 0, 2)(-torch.ones(3)), "at least 0 in a graph with a cycle"),
        (lambda: grid_edges(0, 3), "height and width must be at least 1, got 0 and 3"),
    ],
)
def test_wrong_input_gets_one_line(act, message):
    with pytest.raises(ValueError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


def test_the_edges_of_a_grid():
    assert grid_edges(2, 2).tolist() == [[0, 2], [0, 1], [1, 3], [1, 0], [2, 0], [2, 3], [3, 1], [3, 2]]
    assert grid_edges(1, 1).shape == (0, 2)
