"""Choices of dilation and kernel size, one per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import ClassVar

from torch import Tensor, nn

import nas
from search_spaces.blocks import check_options, check_sizes

_CONVS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
_NORMS: dict[int, Callable[[int], nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
_POOLS: dict[int, Callable[[int], nn.Module]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}


class _DilationNet(nas.SearchSpace):
    """The common base of the spaces for sequences and images.

    Attributes:
        dim: The number of spatial dimensions.
    """

    dim: ClassVar[int]

    def __init__(
        self,
        num_layers: int = 3,
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4, 8, 16),
        in_channels: int = 1,
        num_classes: int = 10,
        depthwise: bool = False,
        kernel_sizes: Sequence[int] = (3,),
        candidate_norms: bool = False,
    ) -> None:
        """Sets the sizes.

        Args:
            num_layers: Number of layers, each with one choice; at least 1.
            channels: Channels of every layer.
            dilations: Dilations to choose from, all different.
            in_channels: Channels of the input.
            num_classes: Number of outputs.
            depthwise: Choose among depthwise convolutions; a fixed pointwise convolution follows each choice.
            kernel_sizes: Kernel sizes to choose from, odd and all different. With the dilations, there must be at least two candidates.
            candidate_norms: Give each candidate its own batch norm, instead of one norm after the choice. Derived networks compute the
                same; in the supernet, statistics of candidates no longer mix.

        Raises:
            ValueError: A value is out of range, or both `depthwise` and `candidate_norms` are set.
        """
        space = type(self).__name__
        check_sizes(space, num_layers=num_layers, channels=channels, in_channels=in_channels)
        check_options(space, "dilations", dilations)
        check_options(space, "kernel_sizes", kernel_sizes, odd=True)
        if depthwise and candidate_norms:
            raise ValueError(f"{space}: candidate_norms must be false if depthwise is true")
        self.num_layers = num_layers
        self.channels = channels
        self.dilations = tuple(dilations)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.depthwise = depthwise
        self.kernel_sizes = tuple(kernel_sizes)
        self.candidate_norms = candidate_norms

    def network(self, stage: str = "search") -> nn.Module:
        """The layers and the head.

        Shape:
            - input: (B, in_channels, L), or (B, in_channels, H, W) for images
            - output: (B, num_classes); of :class:`DilationSegmenter2d` (B, num_classes, H, W)
        """
        layers = nn.Sequential()
        channels = self.in_channels
        for i in range(self.num_layers):
            with nas.scope(f"layer{i + 1}"):
                layers.append(_Layer(self, channels))
            channels = self.channels
        return nn.Sequential(layers, *self.head(channels))

    def head(self, channels: int) -> tuple[nn.Module, ...]:
        """The modules after the layers."""
        return _POOLS[self.dim](1), nn.Flatten(), nn.Linear(channels, self.num_classes)

    def convs(self, in_channels: int, out_channels: int) -> dict[str, Callable[[], nn.Module]]:
        """The candidates of one layer's choice."""
        conv = partial(_CONVS[self.dim], in_channels, out_channels, bias=False)
        if self.depthwise:
            conv = partial(_CONVS[self.dim], in_channels, in_channels, groups=in_channels, bias=False)
        several = len(self.kernel_sizes) > 1
        convs: dict[str, Callable[[], nn.Module]] = {
            f"kernel_{k}_dilation_{d}" if several else f"dilation_{d}": partial(
                conv, kernel_size=k, padding=k // 2 * d, dilation=d
            )
            for k, d in product(self.kernel_sizes, self.dilations)
        }
        if not self.candidate_norms:
            return convs
        norm = partial(_NORMS[self.dim], out_channels)
        return {label: partial(_in_turn, conv, norm) for label, conv in convs.items()}


class DilationNet1d(_DilationNet):
    """A plain stack of 1-D convolution layers for sequences; each layer's dilation is chosen, and its kernel size if there are several.

    A layer is a convolution that keeps the length, a batch norm after the choice, and ReLU. Global average pooling and a linear head follow
    the layers. Labels are ``dilation_2`` or, with several kernel sizes, ``kernel_5_dilation_2``.
    """

    dim = 1


class DilationNet2d(_DilationNet):
    """The same as :class:`DilationNet1d` for images."""

    dim = 2


class DilationSegmenter2d(_DilationNet):
    """The layers of :class:`DilationNet2d`, with a class for every pixel: outputs (B, num_classes, H, W)."""

    dim = 2

    def head(self, channels: int) -> tuple[nn.Module, ...]:
        return (nn.Conv2d(channels, self.num_classes, 1),)


class _Layer(nn.Module):
    def __init__(self, space: _DilationNet, in_channels: int) -> None:
        super().__init__()
        self.conv = nas.choice("conv", space.convs(in_channels, space.channels))
        self.pointwise: nn.Module | None = None
        if space.depthwise:
            self.pointwise = _CONVS[space.dim](in_channels, space.channels, 1, bias=False)
        self.norm = nn.Identity() if space.candidate_norms else _NORMS[space.dim](space.channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.pointwise is not None:
            x = self.pointwise(x)
        return self.act(self.norm(x))


def _in_turn(*makers: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(*(make() for make in makers))
