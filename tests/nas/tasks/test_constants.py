import pytest
import torch

from nas.runs.results import CONSTANT, has_learned
from nas.tasks import Classification, Regression, Segmentation


def scored(task, target, constant):
    """The headline metric of a constant output."""
    metric = next(iter(task.metrics().values()))
    for part in target.split(5):
        metric.update(constant.expand(len(part), *constant.shape).contiguous(), part)
    return float(metric.compute())


def test_the_best_constant_class():
    task, target = Classification(3), torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(0))
    best = max(scored(task, target, torch.eye(3)[k]) for k in range(3))
    metric = task.constant()
    for part in target.split(7):
        metric.update(None, part)
    assert float(metric.compute()) == pytest.approx(best, abs=1e-7)  # float32


def test_the_best_constant_class_of_pixels():
    task, target = Segmentation(3), torch.randint(0, 3, (10, 4, 4), generator=torch.Generator().manual_seed(0))
    best = max(scored(task, target, torch.eye(3)[k][:, None, None].expand(3, 4, 4)) for k in range(3))
    metric = task.constant()
    metric.update(None, target)
    assert float(metric.compute()) == pytest.approx(best, abs=1e-7)


def test_the_best_constant_number():
    task, target = Regression(), torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    metric = task.constant()
    for part in target.split(7):
        metric.update(None, part)
    assert float(metric.compute()) == pytest.approx(
        scored(task, target, target.mean(0)), rel=1e-5
    )  # float32 sums there


@pytest.mark.parametrize(
    ("task", "value", "constant", "expected"),
    [
        (Classification(2), 0.6, 0.5, True),
        (Classification(2), 0.5, 0.5, False),
        (Regression(), 0.9, 1.0, True),
        (Regression(), 1.1, 1.0, False),
    ],
)
def test_better_is_higher_or_lower(task, value, constant, expected):
    name = next(iter(task.metrics()))
    assert has_learned(task, {name: value, CONSTANT: constant}) is expected
    assert has_learned(task, {name: value}) is None
