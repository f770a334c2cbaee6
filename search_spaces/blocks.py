"""Building blocks and checks that several search spaces share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation
from torchvision.ops.misc import Conv2dNormActivation


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, depthwise convolution, linear 1x1 projection, and a shortcut if input and output shapes match.

    Every convolution is followed by a batch norm and has no bias. With an expansion of 1, there is no first convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Kernel size of the depthwise convolution; odd.
        stride: Stride of the depthwise convolution.
        expansion: Inner channels, as a multiple of `in_channels`.
        squeeze_excite: Add squeeze-and-excitation with a quarter of the inner channels.
        activation: Activation after the first two convolutions; must accept ``inplace``.

    Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks"; position and width of squeeze-and-excitation:
    Howard et al. 2019, "Searching for MobileNetV3".

    Deviation: The gate of squeeze-and-excitation is a sigmoid, not MobileNetV3's hard sigmoid. Its width is not rounded to a multiple of 8.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        expansion: int = 6,
        squeeze_excite: bool = False,
        activation: Callable[..., nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion != 1:
            layers["expand"] = Conv2dNormActivation(in_channels, hidden, 1, activation_layer=activation)
        layers["depthwise"] = Conv2dNormActivation(
            hidden, hidden, kernel_size, stride, groups=hidden, activation_layer=activation
        )
        if squeeze_excite:
            layers["squeeze_excite"] = SqueezeExcitation(hidden, max(1, hidden // 4))
        layers["project"] = Conv2dNormActivation(hidden, out_channels, 1, activation_layer=None)
        self.layers = nn.Sequential(layers)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus its input if there is a shortcut.

        Shape:
            - input: (B, in_channels, H, W)
            - output: (B, out_channels, ceil(H / stride), ceil(W / stride))
        """
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


def check_sizes(space: str, **sizes: int) -> None:
    """Raises ValueError for a size below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{space}: {name} must be at least 1, got {value}")


def check_options(space: str, name: str, values: Sequence[int], *, odd: bool = False) -> None:
    """Raises ValueError for options below 1, repeated options and, with `odd`, even options."""
    if min(values, default=1) < 1 or len(set(values)) != len(values):
        raise ValueError(f"{space}: {name} must be different and at least 1, got {list(values)}")
    if odd and any(value % 2 == 0 for value in values):
        raise ValueError(f"{space}: {name} must be odd, got {list(values)}")


def ordered_labels(choices: Mapping[str, Any], names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The labels of choices that all have the same candidates, in the order of `names`.

    Raises:
        ValueError: A choice is missing, unknown, or has a label that is none of `labels`.
    """
    for name in choices:
        if name not in names:
            raise ValueError(f"genotype: unknown choice {name!r}; the space has {', '.join(names)}")
    for name in names:
        if name not in choices:
            raise ValueError(f"genotype: no label for choice {name!r}")
        if choices[name] not in labels:
            raise ValueError(
                f"genotype: choice {name!r} has no candidate {choices[name]!r}; it has {', '.join(labels)}"
            )
    return [choices[name] for name in names]
