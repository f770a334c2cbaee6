"""Dropout with a learned rate for each layer."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from nas.relaxations import BinaryConcrete
from nas.supernet.modules import copied, eval_mode
from nas.supernet.sampling import sample


class ConcreteDropout(nn.Module):
    """Dropout before a layer, at a rate that is trained with the weights.

    It needs an enclosing supernet that draws with :class:`nas.relaxations.BinaryConcrete`. In eval mode it drops nothing. :func:`fixed`
    replaces it by an ordinary dropout. Without :func:`dropout_penalty` in the loss, training drives the rate to 0.

    Args:
        layer: The layer that reads the input. Dimension 1 of its ``weight`` is the input size.
        rate: The initial rate, in (0, 1).

    Raises:
        ValueError: The rate is out of range, or the layer has no such weight.

    Source: Gal, Hron and Kendall 2017, "Concrete Dropout".
    """

    def __init__(self, layer: nn.Module, rate: float = 0.1) -> None:
        super().__init__()
        if not 0.0 < rate < 1.0:
            raise ValueError(f"ConcreteDropout: rate must lie between 0 and 1, got {rate}")
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            raise ValueError(f"ConcreteDropout: {type(layer).__name__} has no weight matrix")
        self.layer = layer
        self.log_odds = nn.Parameter(torch.tensor(math.log(rate) - math.log1p(-rate)))

    @property
    def rate(self) -> Tensor:
        """The current rate, 0-d."""
        return torch.sigmoid(self.log_odds)

    def forward(self, x: Tensor) -> Tensor:
        """Applies dropout, then the layer.

        Shape:
            - x: any input of the layer
        """
        if self.training:
            logits = torch.stack([self.log_odds, torch.zeros_like(self.log_odds)]).expand(*x.shape, 2)  # drop, keep
            x = x * sample(logits)[..., 1].to(x.dtype) / (1 - self.rate)
        return cast(Tensor, self.layer(x))


RELAXATION = BinaryConcrete()
"""The relaxation for supernets with :class:`ConcreteDropout`."""


def dropout_penalty(network: nn.Module, num_samples: int, length: float = 1e-2, strength: float = 1.0) -> Tensor:
    """The loss term that favors high rates and small weights: a divergence from the prior, for a loss that is a mean over samples.

    Args:
        network: A network with layers of :class:`ConcreteDropout`.
        num_samples: Size of the training set.
        length: Length scale of the prior on weights: a larger scale makes weights smaller.
        strength: Factor of the term. Values below 1 give the data more influence and lower the rates.

    Returns:
        A 0-d tensor.

    Source: Gal, Hron and Kendall 2017, "Concrete Dropout", equations 3 and 4.
    """
    terms = []
    for module in network.modules():
        if isinstance(module, ConcreteDropout):
            weight, rate = cast(Tensor, module.layer.weight), module.rate
            entropy = nn.functional.binary_cross_entropy(rate, rate)
            squares = (1 - rate) * weight.square().sum()
            terms.append(length**2 * squares / 2 - weight.shape[1] * entropy)
    return strength * torch.stack(terms).sum() / num_samples if terms else torch.zeros(())


def rates(network: nn.Module) -> list[float]:
    """The learned rates, in the network's order."""
    return [float(module.rate.detach()) for module in network.modules() if isinstance(module, ConcreteDropout)]


def fixed(network: nn.Module) -> nn.Module:
    """A copy of a network with ordinary dropouts at the learned rates. The copy does not need this framework."""
    network = copied(network)

    def replaced(module: nn.Module) -> nn.Module:
        if isinstance(module, ConcreteDropout):
            return nn.Sequential(nn.Dropout(float(module.rate.detach())), replaced(module.layer))
        for name, child in module.named_children():
            setattr(module, name, replaced(child))
        return module

    return replaced(network)


@torch.no_grad()
def monte_carlo(network: nn.Module, inputs: Tensor, num_draws: int = 50) -> Tensor:
    """Mean class probabilities over several draws of dropout. Other modules run in eval mode; the network's mode is restored.

    Args:
        network: A plain network with ``nn.Dropout`` that returns logits.
        inputs: A batch.
        num_draws: Number of draws.

    Shape:
        - result: (B, num_classes)

    Source: Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation".
    """
    with eval_mode(network):
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        draws = [torch.softmax(network(inputs), dim=-1) for _ in range(num_draws)]
    return torch.stack(draws).mean(0)
