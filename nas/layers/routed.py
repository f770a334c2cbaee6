"""A mixture of experts: each token goes through the experts that a gate draws for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from nas.relaxations import GumbelSoftmax, Softmax
from nas.relaxations.base import checked_tau
from nas.supernet.sampling import present_sampler, sample

PATIENCE = 1000
"""An expert counts as unused after this number of tokens for each expert of its layer, none of which it got."""
_TERMS: ContextVar[list[Tensor] | None] = ContextVar("nas_balance_losses", default=None)


class Routed(nn.Module):
    """A mixture of n experts of which k run for each token.

    In train mode, the gate's logits are relaxed by Gumbel-Softmax, and the k experts of highest weight run: k draws without replacement.
    Inside a supernet, the draw uses the supernet's relaxation, tau and generator (:func:`nas.sample`); elsewhere, `tau` and the global
    generator. In eval mode, the k most probable experts run, with their probabilities as weights. The k weights are divided
    by their sum, through which no gradient passes. The result is the dense mixture for ``k == n``. For ``k == 1``, the weight is 1, and the
    gate gets a straight-through gradient.

    Without :func:`balance_losses` in the loss, training may leave experts unused. A warning names an expert that gets no token for long.
    torch.compile and torch.export run all experts on all tokens and select afterwards: the output is equal up to rounding, and no
    tokens are counted.

    Args:
        experts: Modules that map tokens (M, *features) to (M, *outputs), with equal outputs.
        gate: Module that maps the input to logits. The leading dimensions of the logits are the tokens: (B, n) routes samples, (B, L, n)
            routes positions.
        k: Number of experts that run for each token, from 1 to n. Above 1, draws must be soft.
        tau: Temperature outside of a supernet, above 0. The attribute may be changed during training.

    Shape:
        - input: (*tokens, *features)
        - gate's output: (*tokens, n)
        - result: (*tokens, *outputs)

    Attributes:
        num_tokens: (n,) int64, the number of tokens that each expert got in train mode. The state dict holds it.

    Raises:
        ValueError: An argument is out of range, a logit is NaN (checked on the CPU), or shapes do not fit.

    Source: Shazeer et al. 2017, "Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer"; Kool et al. 2019,
    "Stochastic Beams and Where to Find Them" (the k largest perturbed logits are draws without replacement).

    Deviation: noise is Gumbel noise of scale 1, not learned Gaussian noise. There is no capacity: no token is dropped.
    """

    num_tokens: Tensor

    def __init__(self, experts: Iterable[nn.Module], gate: nn.Module, k: int = 1, tau: float = 1.0) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        if not 1 <= k <= len(self.experts):
            raise ValueError(f"Routed: k must lie in 1 to {len(self.experts)}, the number of experts; got {k}")
        self.gate = gate
        self.k = k
        self.tau = checked_tau(tau)
        self._num_idle = [0] * len(self.experts)
        self.register_buffer("num_tokens", torch.zeros(len(self.experts), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Routes each token."""
        logits = self.gate(x)
        shape = logits.shape[:-1]
        if logits.shape[-1] != len(self.experts) or not shape or x.shape[: len(shape)] != shape:
            raise ValueError(
                f"Routed: the gate must map {tuple(x.shape)} to logits of its first dimensions and {len(self.experts)} experts, "
                f"got {tuple(logits.shape)}"
            )
        tokens = x.flatten(0, len(shape) - 1)
        weights = self._weights(logits.flatten(0, -2))
        values, chosen = weights.topk(self.k, dim=-1)
        shares = values / values.detach().sum(-1, keepdim=True)
        runs_all = torch.compiler.is_compiling() or tokens.is_meta  # sizes must not depend on values
        outputs = self._run_all(tokens, chosen) if runs_all else self._run_chosen(tokens, chosen)
        shares = shares.to(outputs.dtype).reshape(*shares.shape, *[1] * (outputs.dim() - 2))
        return (outputs * shares).sum(1).unflatten(0, shape)

    def _weights(self, logits: Tensor) -> Tensor:
        """(N, n) weights on the simplex: a draw in train mode, probabilities in eval mode."""
        if not self.training:
            return Softmax()(logits, 1.0)
        terms = _TERMS.get()
        if terms is not None and len(logits):
            terms.append(imbalance(torch.softmax(logits, -1, dtype=torch.promote_types(logits.dtype, torch.float32))))
        weights = GumbelSoftmax()(logits, self.tau) if present_sampler() is None else sample(logits)
        if self.k > 1 and len(weights) and not weights.is_meta and not torch.compiler.is_compiling():
            if int((weights > 0).sum(-1).amax()) == 1:
                raise ValueError(f"Routed: k is {self.k}, but each draw has one expert only; draw by a soft relaxation")
        return weights

    def _run_chosen(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """(N, k, *outputs): each expert runs once, on its tokens; without tokens, all experts run on none to give the shape."""
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.experts))
        sizes = counts.tolist()
        if self.training:
            self.num_tokens += counts
            self._warn_of_unused(sizes, len(tokens))
        parts = tokens[order // self.k].split(sizes)
        outputs = {
            number: expert(part)
            for number, (expert, part) in enumerate(zip(self.experts, parts, strict=True))
            if len(part) or not len(tokens)
        }
        first, *_ = outputs.values()
        for number, output in outputs.items():
            if output.shape != (sizes[number], *first.shape[1:]):
                raise ValueError(
                    f"Routed: expert {number} maps {tuple(parts[number].shape)} to {tuple(output.shape)}; "
                    f"expected {(sizes[number], *first.shape[1:])}, as of expert {min(outputs)}"
                )
        joined = torch.cat(list(outputs.values()))
        return joined[order.argsort()].reshape(*chosen.shape, *first.shape[1:])

    def _run_all(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """The same by running every expert on every token; shapes do not depend on values."""
        outputs = torch.stack([expert(tokens) for expert in self.experts], 1)
        index = chosen.reshape(*chosen.shape, *[1] * (outputs.dim() - 2)).expand(-1, -1, *outputs.shape[2:])
        return outputs.gather(1, index)

    def _warn_of_unused(self, sizes: Sequence[int], num_tokens: int) -> None:
        limit = PATIENCE * len(sizes)
        for number, size in enumerate(sizes):
            before = self._num_idle[number]
            self._num_idle[number] = 0 if size else before + num_tokens
            if before < limit <= self._num_idle[number]:
                warnings.warn(
                    f"Routed: nothing was routed to expert {number} of {len(sizes)} among the last {self._num_idle[number]:,} tokens; "
                    "raise the weight of nas.layers.balance_losses",
                    stacklevel=4,
                )


@contextmanager
def balance_losses() -> Iterator[list[Tensor]]:
    """Collects :func:`imbalance` of each forward pass of a :class:`Routed` in train mode inside the block.

    ::

        with nas.layers.balance_losses() as terms:
            output = network(x)
        loss = cross_entropy(output, target) + 0.01 * sum(terms)
    """
    terms: list[Tensor] = []
    token = _TERMS.set(terms)
    try:
        yield terms
    finally:
        _TERMS.reset(token)


def imbalance(probabilities: Tensor) -> Tensor:
    """The squared coefficient of variation of the experts' mean probabilities: 0 if they are equal, n - 1 if one expert gets all tokens.

    An expert is drawn first with its probability. The expected load under ``k == 1`` is therefore the mean probability, and no second term
    for the load is needed. The loss of the Switch Transformer is this plus 1 in expectation.

    Shape:
        - probabilities: (N, n)
        - result: 0-d

    Source: Shazeer et al. 2017, equation 7; Fedus et al. 2022, "Switch Transformers", equation 4.
    """
    return probabilities.shape[1] * probabilities.mean(0).square().sum() - 1
