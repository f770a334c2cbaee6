import pytest
import torch
from torch.nn import functional as F

from nas.tasks import Segmentation


def draw():
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 5, 6, generator=g), torch.randint(0, 3, (4, 5, 6), generator=g)


def test_the_loss_is_the_mean_over_pixels():
    output, target = draw()
    by_pixel = F.cross_entropy(output.movedim(1, -1).reshape(-1, 3), target.reshape(-1))
    torch.testing.assert_close(Segmentation(3).loss(output, target), by_pixel)


def test_the_metrics_by_counting():
    output, target = draw()
    predicted = output.argmax(1)
    metrics = Segmentation(3).metrics()
    assert list(metrics) == ["iou", "accuracy"]
    for half in (slice(0, 1), slice(1, 4)):  # over batches of different sizes
        for metric in metrics.values():
            metric.update(output[half], target[half])
    shares = []
    for label in range(3):
        both = ((predicted == label) & (target == label)).sum()
        shares.append(float(both / ((predicted == label) | (target == label)).sum()))
    assert float(metrics["iou"].compute()) == pytest.approx(sum(shares) / 3)
    assert float(metrics["accuracy"].compute()) == pytest.approx(float((predicted == target).float().mean()))


def test_what_does_not_fit():
    output, target = draw()
    with pytest.raises(ValueError, match="a label for every prediction"):
        Segmentation(3).loss(output, target[:, :4])
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\.\. 1"):
        Segmentation(2).check_target(target)
