import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F

from nas.tasks import MultiLabel


def draw(num_labels, samples=40):
    g = torch.Generator().manual_seed(num_labels)
    return torch.randn(samples, num_labels, generator=g), torch.randint(0, 2, (samples, num_labels), generator=g)


def test_the_loss_is_the_binary_cross_entropy_with_weighted_positives():
    output, target = draw(3)
    weight = torch.tensor([1.0, 2.0, 0.5])
    p = output.double().sigmoid()
    by_hand = -(weight * target * p.log() + (1 - target) * (1 - p).log()).mean()
    for dtype in (torch.int64, torch.bool, torch.float32):
        loss = MultiLabel(3, pos_weight=[1, 2, 0.5]).loss(output, target.to(dtype))
        torch.testing.assert_close(loss.double(), by_hand, atol=1e-6, rtol=0)  # float32
    plain = F.binary_cross_entropy_with_logits(output, target.float())
    torch.testing.assert_close(MultiLabel(3).loss(output, target), plain)


@pytest.mark.parametrize("num_labels", [1, 4])
def test_the_metrics_are_those_of_scikit_learn(num_labels):
    task, (output, target) = MultiLabel(num_labels), draw(num_labels)
    output = output / 10  # probabilities near 0.5; some logits of each batch lie in [0, 1]
    output[:20] = output[:20].abs()  # all of the first two batches
    metrics = task.metrics()
    assert list(metrics) == ["f1", "exact_match"]
    for part, labels in zip(output.split(10), target.split(10), strict=True):
        for metric in metrics.values():
            metric.update(task.prediction(part), labels)
    predicted = (output > 0).long()
    f1 = f1_score(target, predicted, average="macro" if num_labels > 1 else "binary")
    assert float(metrics["f1"].compute()) == pytest.approx(f1)
    assert float(metrics["exact_match"].compute()) == pytest.approx(accuracy_score(target, predicted))


def test_the_best_constant_labels():
    task, (_, target) = MultiLabel(3), draw(3)
    target[:, 2] = 0  # a label that no sample has
    metric = task.constant()
    for part in target.split(7):
        metric.update(None, part)
    constants = [[int(bit) for bit in f"{number:03b}"] for number in range(8)]
    scores = [f1_score(target, [c] * len(target), average="macro", zero_division=0) for c in constants]
    assert float(metric.compute()) == pytest.approx(max(scores))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(4, 2), r"targets of shape \(batch, 3\), got \(4, 2\)"),
        (torch.zeros(4), r"targets of shape \(batch, 3\), got \(4,\)"),
        (torch.full((4, 3), 0.5), "targets of 0 and 1"),
        ({"a": torch.zeros(4, 3)}, "the target is a dict of a instead of a tensor"),
    ],
)
def test_targets_that_do_not_fit(target, message):
    with pytest.raises(ValueError, match=message):
        MultiLabel(3).check_target(target)


def test_outputs_and_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"target's shape \(4, 3\), got \(4, 2\)"):
        MultiLabel(3).loss(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="num_labels must be at least 1"):
        MultiLabel(0)
    with pytest.raises(ValueError, match="pos_weight must be 2 finite numbers above 0"):
        MultiLabel(2, pos_weight=[1.0])
