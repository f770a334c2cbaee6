from itertools import pairwise

import numpy as np
import pytest
import torch

import nas
from nas.relaxations import GumbelSoftmax, Softmax


@pytest.fixture(scope="module")
def paths(load_file):
    return load_file("examples/shortest_path/shortest_path.py")


def simple_paths(cells, inside, at, seen):
    """All ways to the last cell that enter no cell twice."""
    if at == len(cells) - 1:
        yield [at]
        return
    for following in cells[at][inside[at]].tolist():
        if following not in seen:
            for rest in simple_paths(cells, inside, following, seen | {following}):
                yield [at, *rest]


def test_the_cheapest_path_by_enumeration(paths):
    cells, inside = paths.neighbours(3)
    every = list(simple_paths(cells, inside, 0, {0}))
    assert len(every) == 12  # self-avoiding walks between opposite corners of a 3x3 grid
    for seed in range(20):
        costs = np.random.default_rng(seed).uniform(0.1, 5.0, 9)
        best = min(costs[path[1:]].sum() for path in every)
        assert costs[paths.cheapest_path(costs, 3)[1:]].sum() == pytest.approx(best)


class Recursion(torch.nn.Module):
    def __init__(self, step_weights):
        super().__init__()
        self.step_weights = step_weights

    def forward(self, prices, side):
        return self.step_weights(prices, side)


def test_cold_recursion_is_dijkstras_and_its_gradient_the_path(paths):
    side = 4
    supernet = nas.Supernet(Recursion(paths.step_weights))
    generator = torch.Generator().manual_seed(0)
    prices = (0.5 + torch.rand(6, side * side, dtype=torch.float64, generator=generator)).requires_grad_()
    sample = supernet.sample(Softmax(), 1e-3, generator=generator)
    value, weights = supernet(prices, side, op_weights=sample)
    (gradient,) = torch.autograd.grad(value[:, 0].sum(), prices)
    for grid, found, on_path, steps in zip(prices.detach(), value, gradient, weights, strict=True):
        path = paths.cheapest_path(grid.numpy(), side)
        assert float(found[0].detach()) == pytest.approx(float(grid[path[1:]].sum()), rel=1e-6)
        entered = torch.zeros(side * side, dtype=torch.float64)
        entered[path[1:]] = 1.0
        torch.testing.assert_close(on_path, entered, atol=0.02, rtol=0)  # ties within tau
        cells, _ = paths.neighbours(side)
        assert [int(cells[a, steps[a].argmax()]) for a, _ in pairwise(path)] == path[1:]


def test_no_step_leaves_the_grid(paths):
    """A corner behind a wall: what a step over the edge leads to must not be a way out."""
    supernet = nas.Supernet(Recursion(paths.step_weights))
    prices = torch.ones(1, 9)
    prices[0, [1, 5]] = 50.0  # around the corner of cell 2
    sample = supernet.sample(Softmax(), 1e-3, generator=torch.Generator())
    value, weights = supernet(prices, 3, op_weights=sample)
    assert float(value[0, 2]) == pytest.approx(51.0) and float(value[0, 0]) == pytest.approx(4.0)
    _, inside = paths.neighbours(3)
    assert weights[0][~inside].max() == 0


def test_grids_show_paths_that_cost_what_they_say(paths):
    data = paths.grids(True, 20, 0)
    cells, _ = paths.neighbours(paths.SIDE)
    for costs, steps, best in zip(data.costs, data.steps, data.best, strict=True):
        path = paths.followed(steps.clamp_min(0), cells)
        assert path[-1] == paths.CELLS - 1 and float(costs[path[1:]].sum()) == pytest.approx(float(best))
        assert int((steps >= 0).sum()) == len(path) - 1
    assert set(data.costs.unique().tolist()) == {1.0, 2.0, 4.0, 7.0}
    assert not (data.images[:1, :, None] == paths.grids(False, 20, 0).images[:1, None]).all(-1).any()
    good = [paths.cheapest_path(costs.numpy(), paths.SIDE) for costs in data.costs]
    straight = paths.cheapest_path(np.ones(paths.CELLS), paths.SIDE)
    costs = data.costs[:, straight[1:]].sum(1)
    share = float((costs - data.best < 0.5).float().mean())  # costs are whole numbers
    assert paths.solved(data, [straight] * 20) == pytest.approx(share) and share < 1.0
    assert paths.solved(data, good) == 1.0 and paths.solved(data, [path[:-1] for path in good]) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), Softmax()], ids=["noise", "no noise"])
def test_most_held_out_grids_are_solved(paths, relaxation):
    torch.set_num_threads(1)
    assert paths.by_prices(relaxation, paths.NUM_STEPS, 0) > 0.95  # 500 grids
