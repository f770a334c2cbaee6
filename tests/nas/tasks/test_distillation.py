"""Distillation: the distances by other libraries, the parent's part, and retraining with it."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn
from torch.nn import functional as F

import nas
from nas.evaluation import evaluate, prepared
from nas.tasks import Classification, Distillation


class Counted(nn.Linear):
    """Counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def taught(parent, inputs, target=None, **options):
    task = Distillation(**options)
    task.teach(parent)
    return task, task.prepare(inputs, target)


def test_the_distances_are_those_of_scipy_and_torch():
    torch.manual_seed(0)
    parent, x, own = nn.Linear(3, 5).double(), torch.randn(4, 3).double(), torch.randn(4, 5).double()
    other = parent(x).detach()
    task, target = taught(parent, (x,), temperature=3.0)
    of_each = [entropy(softmax(b / 3), softmax(a / 3)) for a, b in zip(own.numpy(), other.numpy(), strict=True)]
    assert float(task.loss(own, target)) == pytest.approx(9 * np.mean(of_each), rel=1e-12)
    task, target = taught(parent, (x,), kind="mse")
    assert float(task.loss(own, target)) == pytest.approx(float(((own - other) ** 2).mean()), rel=1e-12)
    task, target = taught(parent, (x,), kind="cosine")
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(own.numpy(), other.numpy(), strict=True)]
    assert float(task.loss(own, target)) == pytest.approx(1 - np.mean(cosines), rel=1e-12)


def test_the_loss_is_a_weighted_sum_and_its_gradient_reaches_the_child_only():
    torch.manual_seed(0)
    parent, x, y = nn.Linear(3, 5).double(), torch.randn(4, 3).double(), torch.tensor([0, 4, 2, 2])
    child = nn.Linear(3, 5).double()
    task, target = taught(parent, (x,), y, task=Classification(num_classes=5), weight=0.25)
    loss = task.loss(child(x), target)
    alone, its = taught(parent, (x,))
    expected = 0.75 * F.cross_entropy(child(x), y) + 0.25 * alone.loss(child(x), its)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward()
    assert parent.weight.grad is None and child.weight.grad.abs().sum() > 0
    assert not [*task.parameters()] and not task.state_dict()
    assert torch.autograd.gradcheck(
        lambda o: task.loss(o, target), torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    )


@pytest.mark.parametrize(("kind", "name"), [("kl", "agreement"), ("mse", "mse"), ("cosine", "cosine")])
def test_without_labels_the_headline_compares_with_the_parent(kind, name):
    torch.manual_seed(0)
    parent, x = nn.Linear(3, 5), torch.randn(64, 3)
    task = Distillation(kind=kind)
    task.teach(parent)
    other = nn.Linear(3, 5)
    batches = [(x[:40], torch.zeros(40)), (x[40:], torch.zeros(24))]
    scores, same = (evaluate(network, batches, task, torch.device("cpu")) for network in (other, parent))
    a, b = other(x).detach(), parent(x).detach()
    expected = {
        "agreement": float((a.argmax(1) == b.argmax(1)).float().mean()),
        "mse": float(F.mse_loss(a, b)),
        "cosine": float(F.cosine_similarity(a, b).mean()),
    }[name]
    assert scores[name] == pytest.approx(expected, rel=1e-5)  # float32
    assert same["loss"] == pytest.approx(0, abs=1e-6) and same[name] == pytest.approx(float(kind != "mse"), abs=1e-6)


def test_the_parent_runs_once_a_batch_and_in_eval_mode():
    parent = Counted(2, 3)
    task = Distillation()
    task.teach(parent)
    batch = prepared(task, nn.Identity(), (torch.zeros(6, 2), torch.zeros(6)))
    assert parent.calls == 1 and not parent.training
    assert batch[1].output.shape == (6, 3) and not batch[1].output.requires_grad


def test_a_space_that_knows_its_parent_makes_it_when_it_is_needed():
    made = []

    def make():
        made.append(nn.Linear(2, 3))
        return made[-1]

    task = Distillation()
    task.teach(make)
    assert not made
    for _ in range(2):
        task.prepare((torch.zeros(1, 2),), None)
    assert len(made) == 1
    own = nn.Linear(2, 3)
    task.teach(own)
    task.teach(make)
    target = task.prepare((torch.ones(1, 2),), None)
    assert torch.equal(target.output, own(torch.ones(1, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight must be above 0 and at most 1, got 0.0"),
        ({"temperature": -1.0}, "temperature must be a finite number above 0, got -1.0"),
        ({"feature_weight": 0.0}, "feature_weight must be a finite number above 0, got 0.0"),
        ({"features": "layers"}, "features must be blocks, a list of paths, or null, got 'layers'"),
        ({"kind": "l1"}, "kind must be one of kl, mse, cosine, got 'l1'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**options)


def test_what_is_missing_or_does_not_fit_is_named():
    with pytest.raises(ValueError, match="Distillation has no parent"):
        Distillation().prepare((torch.zeros(1, 2),), None)
    task, target = taught(nn.Linear(2, 3), (torch.zeros(4, 2),))
    with pytest.raises(
        ValueError, match=r"the network's output has the shape \[4, 5\], and that of its parent \[4, 3\]"
    ):
        task.loss(torch.zeros(4, 5), target)
    with pytest.raises(ValueError, match="the output has no element 'logits'"):
        taught(nn.Linear(2, 3), (torch.zeros(4, 2),), output="logits")


def test_every_space_may_have_a_parent():
    class Space(nas.SearchSpace):
        def network(self, stage="search"):
            return nn.Linear(1, 1)

    assert Space().parent() is None
