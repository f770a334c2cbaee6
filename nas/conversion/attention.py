"""Multi-head attention of which heads can be cut: ``nn.MultiheadAttention`` ties the width of its heads to that of its inputs."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiheadAttention(nn.Module):
    """``nn.MultiheadAttention``, with projections of any width: the same parameters, arguments and results.

    Source: torch/nn/modules/activation.py, torch/nn/functional.py.
    Deviation: no ``bias_k``, ``bias_v`` and ``add_zero_attn``, and keys and values are as wide as queries.
    """

    _qkv_same_embed_dim = False  # torch.nn.TransformerEncoderLayer then has no fused path, which ties widths

    def __init__(self, source: nn.MultiheadAttention) -> None:
        """Takes over the parameters of a layer."""
        super().__init__()
        self.num_heads, self.head_dim = source.num_heads, source.head_dim
        self.dropout, self.batch_first = source.dropout, source.batch_first
        self.in_proj_weight, self.in_proj_bias, self.out_proj = (
            source.in_proj_weight,
            source.in_proj_bias,
            source.out_proj,
        )
        self.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See ``nn.MultiheadAttention``."""
        is_batched = query.dim() == 3
        q, k, v = (self._heads(part, is_batched) for part in self._projected(query, key, value))
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, dropout) @ v
        else:
            weights, mixed = None, F.scaled_dot_product_attention(q, k, v, mask, dropout)
        mixed = mixed.transpose(1, 2).flatten(2)
        if not is_batched:
            mixed = mixed[0]
        elif not self.batch_first:
            mixed = mixed.transpose(0, 1)
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if is_batched else weights[0]
        return self.out_proj(mixed), weights

    def _projected(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if inputs[0] is inputs[1] is inputs[2]:
            return F.linear(inputs[0], self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None,) * 3
        return tuple(map(F.linear, inputs, self.in_proj_weight.chunk(3), biases))

    def _heads(self, x: Tensor, is_batched: bool) -> Tensor:
        """(batch, heads, length, width of a head)."""
        if not is_batched:
            x = x[None]
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """What is added to the scores."""
        if mask is not None:
            mask = _added(mask, q)
            if mask.dim() == 3:
                mask = mask.view(-1, self.num_heads, q.shape[-2], k.shape[-2])
        if padding is not None:
            padding = _added(padding, q).view(len(k), 1, 1, -1)
            mask = padding if mask is None else mask + padding
        return mask


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)


def with_free_heads(network: nn.Module) -> nn.Module:
    """The network, changed in place, with such layers instead of those of torch where they do the same."""
    made: dict[int, nn.Module] = {}
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if _is_replaceable(child):
                if id(child) not in made:
                    made[id(child)] = MultiheadAttention(cast(Any, child))
                module._modules[name] = made[id(child)]
    return network


def _is_replaceable(module: Any) -> bool:
    return (
        type(module) is nn.MultiheadAttention
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
        and not (module._forward_hooks or module._forward_pre_hooks)
    )
