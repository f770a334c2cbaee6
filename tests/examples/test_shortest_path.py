import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from nas.layers import grid_edges


@pytest.fixture(scope="module")
def paths(load_file):
    return load_file("examples/shortest_path/shortest_path.py")


def test_grids_show_paths_as_cheap_as_dijkstras(paths):
    data = paths.grids(True, 20, 0)
    starts, ends = grid_edges(6, 6).T.numpy()
    for costs, edges, best in zip(data.costs, data.edges, data.best, strict=True):
        graph = csr_matrix((costs.numpy(), (starts, ends)))
        assert float(best) == dijkstra(graph, indices=0)[35] == float(edges @ costs)
        assert all(len(set(costs[paths.EDGES[:, 1] == cell].tolist())) == 1 for cell in range(36))
    assert set(data.costs.unique().tolist()) == {1.0, 2.0, 4.0, 7.0}
    assert not (data.images[:1, :, None] == paths.grids(False, 20, 0).images[:1, None]).all(-1).any()


def test_the_limit_on_edges_is_wide_enough(paths):
    """Training searches paths of at most 18 edges: the cheapest of 500 grids are among them."""
    data = paths.grids(False, 500, 3)
    assert torch.equal(paths.Pathfinder().path.eval()(data.costs).cost, data.best)


def test_what_following_steps_costs(paths):
    data = paths.grids(True, 5, 1)
    first_edge = torch.tensor([int((paths.EDGES[:, 0] == cell).nonzero()[0]) for cell in range(36)])
    steps = first_edge.expand(5, 36).clone()
    assert paths.cost_of_steps(steps, data.costs).isinf().all()  # down or up, forever
    for grid, edges in enumerate(data.edges):
        taken = edges.nonzero()[:, 0]
        steps[grid, paths.EDGES[taken, 0]] = taken
    torch.testing.assert_close(paths.cost_of_steps(steps, data.costs), data.best)
    assert paths.solved(data.best, data.best) == 1.0 and paths.solved(data.best + 1, data.best) == 0.0


def test_a_cloner_chooses_edges_of_the_cell(paths):
    edges = paths.Cloner()(torch.rand(2, 36, 64)).argmax(-1)
    assert torch.equal(paths.EDGES[edges, 0], torch.arange(36).expand(2, 36))


@pytest.mark.parametrize("name", ["by_likelihood", "by_samples"])
def test_a_few_steps_learn_something(paths, name, tmp_path):
    torch.set_num_threads(1)
    score = paths.tested(getattr(paths, name))
    assert score(60, 0) > 0.15 > paths.equal_prices(0, 0)


def test_the_picture_is_drawn(paths, tmp_path):
    torch.manual_seed(0)
    paths.draw(paths.Pathfinder().eval(), 0, str(tmp_path / "path.png"))
    assert 5_000 < (tmp_path / "path.png").stat().st_size < 60_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["by_likelihood", "by_samples"])
def test_most_held_out_grids_are_solved(paths, name):
    torch.set_num_threads(1)
    assert paths.tested(getattr(paths, name))(paths.NUM_STEPS, 0) > 0.9  # 500 grids: 3 standard errors
