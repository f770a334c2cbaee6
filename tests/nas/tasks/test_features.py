"""Features of a parent, compared by formulas of the paper in float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from nas.evaluation import observed, prepared
from nas.tasks import Classification, Distillation
from nas.tasks.features import blocks_of, cka


def cka_of_covariances(a, b):
    """The same number by the channels, (C, C), instead of the samples."""
    a, b = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(0) for x in (a, b))
    norm = np.linalg.norm
    return norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))


def test_similarity_is_that_of_covariances():
    torch.manual_seed(0)
    a, b = torch.randn(7, 3, 4).double(), torch.randn(7, 5).double()
    assert float(cka(a, b)) == pytest.approx(cka_of_covariances(a.numpy(), b.numpy()), rel=1e-12)
    turned = 3 * b @ torch.linalg.qr(torch.randn(5, 5).double())[0] + 1
    assert float(cka(b, turned)) == pytest.approx(1, abs=1e-12)
    assert float(cka(torch.ones(4, 2), torch.randn(4, 3))) == 0  # all samples alike
    low = cka(a.half(), b.half())
    assert low.dtype == torch.float32 and float(low) == pytest.approx(float(cka(a, b)), abs=1e-3)  # float16 inputs


def network(width):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()


def test_the_loss_of_an_observed_output_counts_the_features():
    torch.manual_seed(0)
    parent, child = network(8), network(5)
    x, y = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    plain, task = (
        Distillation(Classification(3), **options) for options in ({}, {"features": ["0", "1"], "feature_weight": 2.0})
    )
    for each in (plain, task):
        each.teach(parent)
    batch, (_, wanted) = prepared(task, child, (x, y)), prepared(plain, child, (x, y))
    with torch.no_grad():
        alike = [cka_of_covariances(child[:n](x).numpy(), parent[:n](x).numpy()) for n in (1, 2)]
        without = float(plain.loss(child(x), wanted))
        assert float(task.loss(child(x), batch[1])) == without  # not in training
    loss = task.loss(observed(task, child, x), batch[1])
    assert float(loss.detach()) == pytest.approx(without + 2.0 * (1 - np.mean(alike)), rel=1e-12)
    loss.backward()
    assert child[0].weight.grad.abs().sum() > 0 and parent[0].weight.grad is None
    assert not child[0]._forward_hooks and not parent[1]._forward_hooks


def test_blocks_are_the_outermost_elements_of_sequences():
    inner = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Linear(2, 2))
    model = nn.ModuleDict({"stem": nn.Linear(2, 2), "layers": nn.ModuleList([inner, nn.ReLU(), nn.Bilinear(1, 1, 1)])})
    assert blocks_of(model) == ["layers.0"]
    assert blocks_of(resnet18()) == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["nothing"], "feature 'nothing': the parent has no such module"),
        ("blocks", "features: Sequential has no blocks; name modules instead"),
    ],
)
def test_features_that_the_parent_lacks(features, message):
    task = Distillation(features=features)
    task.teach(network(4))
    with pytest.raises(ValueError, match=message):
        task.prepare((torch.zeros(2, 4).double(),), None)


def test_features_that_the_network_lacks():
    task = Distillation(features=["1"])
    task.teach(network(4))
    idle = nn.ModuleList([nn.Linear(4, 3), nn.ReLU()])
    idle.forward = idle[0].forward
    with pytest.raises(ValueError, match="feature '1': the network has no such module"):
        observed(task, nn.Linear(4, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="feature '1': the module of the network does not run"):
        observed(task, idle, torch.zeros(2, 4))
    idle[1].forward = str
    idle.forward = lambda x: (idle[1](x), x)[1]
    with pytest.raises(ValueError, match="feature '1': the module of the network makes no tensor"):
        observed(task, idle, torch.zeros(2, 4))
