import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from nas.evaluation import evaluate, recalibrate_batch_norm
from nas.tasks import Classification, Regression

CPU = torch.device("cpu")


def test_classification_loss_is_the_mean_negative_log_probability():
    output = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    target = torch.tensor([0, 2])
    expected = -(output.log_softmax(-1)[0, 0] + output.log_softmax(-1)[1, 2]) / 2
    torch.testing.assert_close(Classification(3).loss(output, target), expected)
    smooth = Classification(3, label_smoothing=0.3).loss(output, target)
    uniform = -output.log_softmax(-1).mean()
    torch.testing.assert_close(smooth, 0.7 * expected + 0.3 * uniform)


def test_class_weights_and_ignored_labels_are_those_of_a_weighted_mean():
    g = torch.Generator().manual_seed(0)
    output, target = torch.randn(6, 3, 5, generator=g), torch.randint(0, 3, (6, 5), generator=g)
    target[1, 2:] = -100
    weights = torch.tensor([0.5, 1.0, 4.0])
    each = torch.stack([weights[t] for t in target[target >= 0]])
    nll = -output.movedim(1, -1).log_softmax(-1)[target >= 0].gather(1, target[target >= 0][:, None])[:, 0]
    task = Classification(3, class_weights=[0.5, 1, 4], ignore_index=-100)
    torch.testing.assert_close(task.loss(output, target), (each * nll).sum() / each.sum())
    assert not task.state_dict()
    task.check_target(target)
    accuracy, constant = task.metrics()["accuracy"], task.constant()
    accuracy.update(output, target)
    constant.update(None, target)
    right = (output.argmax(1) == target)[target >= 0]
    assert float(accuracy.compute()) == pytest.approx(float(right.float().mean()))
    assert float(constant.compute()) == pytest.approx(float(target[target >= 0].bincount().max() / len(right)))


def test_balanced_accuracy_is_that_of_scikit_learn():
    g = torch.Generator().manual_seed(0)
    output, target = torch.randn(60, 3, generator=g), torch.randint(0, 9, (60,), generator=g).clamp(max=2)
    task = Classification(3, metric="balanced_accuracy")
    metrics, constant = task.metrics(), task.constant()
    assert list(metrics) == ["balanced_accuracy", "accuracy"]
    for part in (slice(0, 50), slice(50, 60)):
        metrics["balanced_accuracy"].update(output[part], target[part])
        constant.update(None, target[part])
    expected = balanced_accuracy_score(target, output.argmax(1))
    assert float(metrics["balanced_accuracy"].compute()) == pytest.approx(expected)
    best = max(balanced_accuracy_score(target, [k] * 60) for k in range(3))
    assert float(constant.compute()) == pytest.approx(best)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 3]), r"labels must lie in 0 ... 2 .*got 0 ... 3"),
        (torch.tensor([-1, 2]), "labels must lie in"),
        (torch.tensor([0.0, 1.0]), "needs integer labels"),
    ],
)
def test_labels_out_of_range(target, message):
    with pytest.raises(ValueError, match=message):
        Classification(3).check_target(target)


def test_outputs_of_another_width():
    with pytest.raises(ValueError, match=r"outputs of shape \(batch, 3\), got \(2, 4\)"):
        Classification(3).loss(torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"a label for every prediction, got outputs \(2, 3\) and targets \(2, 1\)"):
        Classification(3).loss(torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"label_smoothing": 1.0}, "label_smoothing must lie in"),
        ({"class_weights": [1.0, 2.0]}, r"class_weights must be 3 finite numbers above 0, got \[1.0, 2.0\]"),
        ({"class_weights": [1.0, 0.0, 2.0]}, "class_weights must be 3 finite numbers above 0"),
        ({"metric": "f1"}, "metric must be accuracy or balanced_accuracy"),
    ],
)
def test_bad_classification(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classification(**{"num_classes": 3, **arguments})


@pytest.mark.parametrize(("criterion", "expected"), [("mse", 2.5), ("l1", 1.5), ("huber", (0.5 + 1.5) / 2)])
def test_regression_losses(criterion, expected):
    loss = Regression(criterion).loss(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [2.0]]))
    assert loss.item() == pytest.approx(expected)


def test_regression_does_not_broadcast():
    with pytest.raises(ValueError, match="target's shape"):
        Regression().loss(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match="floating-point"):
        Regression().check_target(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="NaN"):
        Regression().check_target(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="criterion"):
        Regression("l3")


def test_evaluation_weighs_a_short_last_batch_rightly_and_restores_the_mode():
    torch.default_generator.manual_seed(0)
    x, y = torch.randn(10, 4), torch.randint(0, 3, (10,))
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).train()
    batches = [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])]
    scores = evaluate(network, batches, Classification(3), CPU)
    network.eval()
    output = network(x)
    assert scores["accuracy"] == pytest.approx((output.argmax(-1) == y).float().mean().item())
    assert scores["loss"] == pytest.approx(nn.functional.cross_entropy(output, y).item(), rel=1e-5)  # float32
    network.train()
    evaluate(network, batches, Classification(3), CPU)
    assert network.training


def test_recalibrated_statistics_are_those_of_the_data():
    x = torch.randn(60, 5) * 3 + 1
    network = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5)).train()
    network(torch.randn(8, 5) * 100)
    recalibrate_batch_norm(network, [(part, part) for part in x.split(20)], CPU)
    norm = network[0]
    torch.testing.assert_close(norm.running_mean, x.mean(0), atol=1e-5, rtol=1e-5)
    variances = torch.stack([part.var(0) for part in x.split(20)]).mean(0)
    torch.testing.assert_close(norm.running_var, variances, atol=1e-4, rtol=1e-5)
    assert norm.momentum == 0.1 and network.training and network[1].training


def test_two_inputs_are_passed_as_two_arguments():
    class Add(nn.Module):
        def forward(self, a, b):
            return a + b

    a, b = torch.ones(4, 2), torch.zeros(4, 2)
    assert evaluate(Add(), [((a, b), a)], Regression(), CPU)["mse"] == 0.0
