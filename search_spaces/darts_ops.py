"""The operations of DARTS cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import stochastic_depth

OPS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
SEARCH_ONLY = ("none",)
DERIVABLE = tuple(op for op in OPS if op not in SEARCH_ONLY)


def edge_ops(channels: int, stride: int, stage: str, drop_path: float = 0.0) -> dict[str, Callable[[], nn.Module]]:
    """The candidates of one edge: label -> factory, in the published order.

    While searching, batch norms learn no scale, and each pooling has a batch norm. In retraining, batch norms learn a scale, and poolings
    have no batch norm.

    Args:
        channels: Channels of input and output.
        stride: 1, or 2 to halve the image.
        stage: ``"search"`` or ``"retrain"``.
        drop_path: Largest probability of dropping an operation's output in retraining; identities are never dropped.

    Source: quark0/darts, cnn/operations.py and the MixedOp of cnn/model_search.py.
    """
    if stage != "retrain":
        return {op: partial(make_op, op, channels, stride, affine=False) for op in OPS}
    return {op: partial(_dropped, partial(make_op, op, channels, stride, affine=True), drop_path) for op in OPS}


def make_op(op: str, channels: int, stride: int, *, affine: bool) -> nn.Module:
    """One operation.

    Args:
        op: One of `OPS`.
        channels: Channels of input and output.
        stride: 1, or 2 to halve the image.
        affine: Whether batch norms learn a scale; if not, each pooling has a batch norm.

    Shape:
        - input of the module: (B, channels, H, W)
        - output of the module: (B, channels, ceil(H / stride), ceil(W / stride))
    """
    if op == "none":
        return _Zeros(stride)
    if op == "skip_connect":
        return nn.Identity() if stride == 1 else factorized_reduce(channels, channels, affine=affine)
    kind, _, size = op.rpartition("_")
    kernel_size = int(size[0])
    if kind == "sep_conv":
        return nn.Sequential(
            *_separable(channels, kernel_size, stride, 1, affine), *_separable(channels, kernel_size, 1, 1, affine)
        )
    if kind == "dil_conv":
        return nn.Sequential(*_separable(channels, kernel_size, stride, 2, affine))
    pool: nn.Module = nn.MaxPool2d(kernel_size, stride, kernel_size // 2)
    if kind == "avg_pool":
        pool = nn.AvgPool2d(kernel_size, stride, kernel_size // 2, count_include_pad=False)
    return nn.Sequential(pool) if affine else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


def relu_conv_norm(in_channels: int, out_channels: int, *, affine: bool) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(out_channels, affine=affine))


def factorized_reduce(in_channels: int, out_channels: int, *, affine: bool) -> nn.Sequential:
    """ReLU, halving of the image by two shifted 1x1 convolutions, batch norm.

    Deviation: Odd numbers of output channels and odd image sizes work too.
    """
    halves = _TwoHalves(in_channels, out_channels)
    return nn.Sequential(nn.ReLU(), halves, nn.BatchNorm2d(out_channels, affine=affine))


class ScheduledDropPath(nn.Module):
    """Drops the whole input of random samples, with a probability that grows in proportion to the progress of training.

    Kept samples are divided by the keep probability. In eval mode nothing is dropped.

    Args:
        largest: Drop probability at the end of training, from 0 to below 1.

    Source: Zoph et al. 2018, "Learning Transferable Architectures for Scalable Image Recognition"; quark0/darts, cnn/utils.py.

    Attributes:
        probability: Current drop probability; 0 until :meth:`set_progress` is called.
    """

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest
        self.probability = 0.0

    def extra_repr(self) -> str:
        return f"largest={self.largest}"

    def set_progress(self, progress: float) -> None:
        """Sets the drop probability.

        Args:
            progress: Completed share of training, in [0, 1].
        """
        self.probability = self.largest * progress

    def forward(self, x: Tensor) -> Tensor:
        """The input, with some samples set to 0.

        Shape:
            - input, output: (B, ...)
        """
        dropped: Tensor = stochastic_depth(x, self.probability, "row", self.training)
        return dropped


def _dropped(make: Callable[[], nn.Module], drop_path: float) -> nn.Module:
    op = make()
    if drop_path > 0 and isinstance(op, nn.Sequential):  # neither an identity nor zeros
        op.append(ScheduledDropPath(drop_path))
    return op


def _separable(channels: int, kernel_size: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = kernel_size // 2 * dilation
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


class _Zeros(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class _TwoHalves(nn.Module):
    """Two strided 1x1 convolutions with half of the channels each; the second reads the image shifted by one pixel down and right."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = nn.Conv2d(in_channels, half, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(in_channels, out_channels - half, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        shifted = F.pad(x[:, :, 1:, 1:], (0, width % 2, 0, height % 2))
        return torch.cat([self.conv1(x), self.conv2(shifted)], dim=1)
