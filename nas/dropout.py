"""Dropout with learned rates, and the uncertainty of networks with dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from nas.relaxations import BinaryConcrete
from nas.supernet.modules import copied, eval_mode
from nas.supernet.sampling import sample

Per = Literal["layer", "channel", "unit"]
"""What has a dropout rate of its own."""


class ConcreteDropout(nn.Module):
    """Dropout before a layer, at rates that are trained with the weights.

    It needs an enclosing supernet that draws with :class:`nas.relaxations.BinaryConcrete`. In eval mode it drops nothing. :func:`fixed`
    replaces it by an ordinary dropout. Without :func:`dropout_penalty` in the loss, training drives the rates to 0.

    Args:
        layer: The layer that reads the input: linear, or a convolution that is not transposed.
        rate: The initial rate, in (0, 1).
        per: What has a rate of its own: the ``layer``; each input ``channel`` (for a linear layer, each input feature), which is dropped
            whole; or each ``unit``, which is one element of a sample (for a linear layer, the same as a channel).
        size: Spatial size of the input of a convolution, for ``unit`` only.

    Raises:
        ValueError: The rate, `per` or `size` is wrong, or the layer has no weight matrix.

    Source: Gal, Hron and Kendall 2017, "Concrete Dropout", which learns one rate for each layer. Deviation: rates for channels and units;
    the divergence from the prior is a sum over input channels in the paper too, so each term takes its own rate.
    """

    def __init__(
        self,
        layer: nn.Module,
        rate: float = 0.1,
        per: Per = "layer",
        size: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if not 0.0 < rate < 1.0:
            raise ValueError(f"ConcreteDropout: rate must lie between 0 and 1, got {rate}")
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() < 2 or getattr(layer, "transposed", False):
            raise ValueError(f"ConcreteDropout: {type(layer).__name__} has no weight matrix with inputs in dimension 1")
        if per not in get_args(Per):
            raise ValueError(f"ConcreteDropout: per must be layer, channel or unit, got {per!r}")
        if len(size) != (weight.dim() - 2 if per == "unit" else 0):
            raise ValueError(
                f"ConcreteDropout: size {tuple(size)} does not fit {type(layer).__name__} with per={per!r}"
            )
        self.layer = layer
        inner = tuple(size) if per == "unit" else (1,) * (weight.dim() - 2)
        shape = () if per == "layer" else (_by_channel(layer).numel(), *inner)
        self.log_odds = nn.Parameter(torch.full(shape, math.log(rate) - math.log1p(-rate)))

    @property
    def rate(self) -> Tensor:
        """The current rates: 0-d for a layer; (C,) for inputs of a linear layer; (C, 1, ...) for channels, (C, *size) for units."""
        return torch.sigmoid(self.log_odds)

    def forward(self, x: Tensor) -> Tensor:
        """Applies dropout, then the layer.

        Shape:
            - x: any input of the layer
        """
        if self.training:
            logits = torch.stack([self.log_odds, torch.zeros_like(self.log_odds)], dim=-1)  # drop, keep
            kept = sample(logits.expand(*_mask_shape(x, self.log_odds), 2))[..., 1]
            keep = torch.sigmoid(-self.log_odds)  # 1 - rate, more precise near a rate of 1
            x = x * kept.to(x.dtype) / keep.clamp_min(torch.finfo(keep.dtype).tiny)
        return cast(Tensor, self.layer(x))


class UnitDropout(nn.Module):
    """Ordinary dropout with a rate for each channel or unit, as :func:`fixed` leaves it.

    Args:
        rate: The rates, in [0, 1]: the last dimensions of the input, 1 where whole channels are dropped.
    """

    def __init__(self, rate: Tensor) -> None:
        super().__init__()
        self.rate: Tensor
        self.register_buffer("rate", rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = (1 - self.rate).to(x.dtype)
        return x * torch.bernoulli(keep.expand(_mask_shape(x, keep))) / keep.clamp_min(torch.finfo(x.dtype).tiny)


def _mask_shape(x: Tensor, rate: Tensor) -> torch.Size:
    """The shape of the masks of an input: one mask for each element that has a rate, in each sample."""
    return x.shape if rate.dim() == 0 else x.shape[: x.dim() - rate.dim()] + rate.shape


def _by_channel(layer: nn.Module) -> Tensor:
    """The sum of squared weights of each input channel of a layer, (C,)."""
    weight, groups = cast(Tensor, layer.weight), getattr(layer, "groups", 1)
    return weight.square().reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:])).sum((1, 3)).flatten()


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

    Source: Gal, Hron and Kendall 2017, "Concrete Dropout", equations 3 and 4. Deviation: with a rate for each unit of a convolution,
    the term of a channel is the mean over its units, which share their weights.
    """
    terms = []
    for module in network.modules():
        if isinstance(module, ConcreteDropout):
            log_odds = torch.atleast_1d(module.log_odds)
            log_odds = log_odds.reshape(len(log_odds), -1)  # (1 or C, units of a channel)
            squares = _by_channel(module.layer)[:, None]
            entropy = nn.functional.binary_cross_entropy_with_logits(log_odds, log_odds.sigmoid(), reduction="none")
            terms.append((length**2 * squares * torch.sigmoid(-log_odds) / 2 - entropy).mean(1).sum())
    return strength * torch.stack(terms).sum() / num_samples if terms else torch.zeros(())


def rates(network: nn.Module) -> list[float]:
    """The learned rate of each layer, or the mean of its rates, in the network's order."""
    return [float(module.rate.detach().mean()) for module in network.modules() if isinstance(module, ConcreteDropout)]


def fixed(network: nn.Module) -> nn.Module:
    """A copy of a network with ordinary dropouts at the learned rates.

    One rate for a layer becomes ``nn.Dropout``, and the copy does not need this framework; several rates become :class:`UnitDropout`.
    """
    network = copied(network)

    def replaced(module: nn.Module) -> nn.Module:
        if isinstance(module, ConcreteDropout):
            rate = module.rate.detach()
            dropout = UnitDropout(rate) if rate.dim() else nn.Dropout(float(rate))
            return nn.Sequential(dropout, replaced(module.layer))
        for name, child in module.named_children():
            setattr(module, name, replaced(child))
        return module

    return replaced(network)


class Uncertainty(NamedTuple):
    """Predictions with their uncertainty: ``total = aleatoric + epistemic``.

    Attributes:
        mean: Class probabilities (..., K), or means of a regression (...).
        total: Entropy of the mean in nats (...), or variance (...).
        aleatoric: The part due to noise in the data, which more data leaves: the mean entropy or variance of a single draw.
        epistemic: The part due to weights that the data leave open: mutual information of prediction and draw, or variance of the means.
    """

    mean: Tensor
    total: Tensor
    aleatoric: Tensor
    epistemic: Tensor


@torch.no_grad()
def monte_carlo(
    network: nn.Module,
    inputs: Tensor,
    num_draws: int = 50,
    kind: Literal["classification", "regression"] = "classification",
) -> Uncertainty:
    """The mean prediction over several draws of dropout, and its uncertainty.

    Dropout draws from torch's global generator. Other modules run in eval mode; the network's mode is restored.

    Args:
        network: A plain network with dropout, such as the result of :func:`fixed`. For classification it returns logits (..., K); for
            regression a mean, or a pair of mean and logarithm of the variance. With a mean alone, aleatoric uncertainty is 0.
        inputs: A batch.
        num_draws: Number of draws, at least 1.
        kind: ``classification`` or ``regression``.

    Raises:
        ValueError: The network has no dropout or one that is not fixed, or an argument is out of range.

    Sources: Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation" (draws); Smith and Gal 2018, "Understanding Measures of
    Uncertainty for Adversarial Example Detection" (entropy, mutual information); Depeweg et al. 2018, "Decomposition of Uncertainty in
    Bayesian Deep Learning" (variance). Deviation: variances are those of the drawn sample, divided by `num_draws`.
    """
    if num_draws < 1:
        raise ValueError(f"monte_carlo: num_draws must be at least 1, got {num_draws}")
    if kind not in ("classification", "regression"):
        raise ValueError(f"monte_carlo: kind must be classification or regression, got {kind!r}")
    if any(isinstance(module, ConcreteDropout) for module in network.modules()):
        raise ValueError("monte_carlo: the network has ConcreteDropout; pass nas.dropout.fixed(network)")
    dropouts = [m for m in network.modules() if isinstance(m, (UnitDropout, nn.modules.dropout._DropoutNd))]
    if not dropouts:
        raise ValueError("monte_carlo: the network has no dropout")
    with eval_mode(network):
        for module in dropouts:
            module.train()
        draws = [network(inputs) for _ in range(num_draws)]
    return _of_regression(draws) if kind == "regression" else _of_logits(torch.stack(draws))


def _of_logits(logits: Tensor) -> Uncertainty:
    """Uncertainty from logits (draws, ..., K)."""
    probabilities = torch.softmax(logits, dim=-1)
    mean = probabilities.mean(0)
    total, aleatoric = (torch.special.entr(p).sum(-1) for p in (mean, probabilities))
    aleatoric = aleatoric.mean(0)
    return Uncertainty(mean, total, aleatoric, (total - aleatoric).clamp_min(0))  # below 0 by rounding only


def _of_regression(draws: Sequence[Tensor | tuple[Tensor, Tensor]]) -> Uncertainty:
    """Uncertainty from means, or from pairs of mean and log variance."""
    pairs = [draw if isinstance(draw, tuple) else (draw, torch.full_like(draw, -torch.inf)) for draw in draws]
    means, variances = torch.stack([mean for mean, _ in pairs]), torch.stack([log.exp() for _, log in pairs])
    aleatoric, epistemic = variances.mean(0), means.var(0, correction=0)
    return Uncertainty(means.mean(0), aleatoric + epistemic, aleatoric, epistemic)
