"""Orders of importance, against sums written out for a small network."""

import pytest
import torch
from torch import nn

import nas
from nas.conversion.convert import Options, converted


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 6, 1, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 3, 1)).double()
    nn.init.normal_(model[1].weight)
    return model


X = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def kept(model, order, size=2):
    """The channels of a derived network, from the values of the first layer's weights."""
    supernet = nas.Supernet(converted(model, (X,), options=Options(order=order, multiple=1)).network)
    small = supernet.derive({"0": str(size)})
    return [int((model[0].weight == row).flatten(1).all(1).nonzero()) for row in small[0].weight]


def largest(numbers, size=2):
    return sorted(numbers.argsort(descending=True)[:size].tolist())


def test_magnitude_is_the_norm_of_all_weights_of_a_channel(model):
    tensors = (model[0].weight, model[1].weight[:, None], model[1].bias[:, None], model[3].weight.transpose(0, 1))
    assert kept(model, "magnitude") == largest(sum(tensor.square().flatten(1).sum(1) for tensor in tensors))


def test_scales_of_batch_norms(model):
    assert kept(model, "batch_norm") == largest(model[1].weight.abs())


def test_taylor_reads_the_gradients_that_the_model_holds(model):
    with pytest.raises(ValueError, match="order 'taylor' needs gradients"):
        kept(model, "taylor")
    model(X).square().mean().backward()
    layers = ((model[0].weight, 0), (model[1].weight, 0), (model[1].bias, 0), (model[3].weight, 1))
    own = sum((p * p.grad).movedim(dim, 0).flatten(1).sum(1) if p.dim() > 1 else p * p.grad for p, dim in layers)
    assert kept(model, "taylor") == largest(own.abs())
    assert model[0].weight.grad is not None, "the model itself is not changed"


def test_mean_outputs_of_the_layers_that_make_a_channel(model):
    assert kept(model, "activation") == largest(model[0](X).abs().mean((0, 2)))


def test_first_keeps_the_first(model):
    assert kept(model, "first", 3) == [0, 1, 2]


def test_an_unknown_order(model):
    with pytest.raises(ValueError, match="order 'size' is none of magnitude"):
        kept(model, "size")
