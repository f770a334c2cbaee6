"""Stages of inverted residuals for images: kernel size, expansion, squeeze-and-excitation and depth."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

from torch import nn
from torchvision.ops.misc import Conv2dNormActivation

import nas
from search_spaces.blocks import InvertedResidual, check_options, check_sizes

STAGES = ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
"""Channels, layers and stride of ProxylessNAS's stages."""


class MobileNet(nas.SearchSpace):
    """A MobileNetV2 with a choice for each layer.

    A strided 3x3 stem and one fixed block of expansion 1 come first, then the stages, then a 1x1 convolution, average pooling and a linear
    classifier. Choice ``stageI.layerJ`` has a candidate for each kernel size and expansion (``k3_e6``, with squeeze-and-excitation
    ``k3_e6_se``). If the layer keeps size and channels, ``identity`` is a further candidate, which makes the network shallower.

    Args:
        stages: Channels, number of layers and stride of each stage; the first layer of a stage has the stride.
        kernels: Kernel sizes to choose from; odd.
        expansions: Expansions to choose from.
        squeeze_excite: [false], [true], or both values to choose from.
        stem_channels: Channels of the stem.
        first_channels: Channels of the fixed first block.
        head_channels: Channels of the last convolution.
        num_classes: Number of outputs.
        in_channels: Channels of the input.
        dropout: Dropout rate before the classifier, from 0 to below 1.

    Raises:
        ValueError: A value out of range.

    Source: Cai et al. 2019, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware" (the default space);
    Wu et al. 2019, "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search".

    Deviation: Batch norms have torch's eps of 1e-5; ProxylessNAS sets 1e-3.
    """

    def __init__(
        self,
        stages: Sequence[tuple[int, int, int]] = STAGES,
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 6),
        squeeze_excite: Sequence[bool] = (False,),
        stem_channels: int = 32,
        first_channels: int = 16,
        head_channels: int = 1280,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        check_sizes(
            "MobileNet",
            stem_channels=stem_channels,
            first_channels=first_channels,
            head_channels=head_channels,
            num_classes=num_classes,
            in_channels=in_channels,
        )
        if not stages:
            raise ValueError("MobileNet: stages must be at least one, got none")
        for i, sizes in enumerate(stages, start=1):
            if len(sizes) != 3 or min(sizes) < 1:
                raise ValueError(
                    f"MobileNet: stage {i} must be channels, number of layers and stride, each at least 1, got {list(sizes)}"
                )
        check_options("MobileNet", "kernels", kernels, odd=True)
        check_options("MobileNet", "expansions", expansions)
        if len(set(squeeze_excite)) != len(squeeze_excite):
            raise ValueError(f"MobileNet: squeeze_excite must be different, got {list(squeeze_excite)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"MobileNet: dropout must be from 0 to below 1, got {dropout}")
        self.stages = tuple(tuple(sizes) for sizes in stages)
        self.kernels = tuple(kernels)
        self.expansions = tuple(expansions)
        self.squeeze_excite = tuple(squeeze_excite)
        self.stem_channels = stem_channels
        self.first_channels = first_channels
        self.head_channels = head_channels
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.dropout = dropout

    def network(self, stage: str = "search") -> nn.Module:
        """Stem, first block, stages and head.

        Shape:
            - input: (B, in_channels, H, W)
            - output: (B, num_classes)
        """
        conv = partial(Conv2dNormActivation, activation_layer=nn.ReLU6)
        stem = conv(self.in_channels, self.stem_channels, 3, stride=2)
        first = InvertedResidual(self.stem_channels, self.first_channels, expansion=1)
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        channels = self.first_channels
        for i, (out_channels, num_layers, stride) in enumerate(self.stages, start=1):
            with nas.scope(f"stage{i}"):
                stages[f"stage{i}"] = self._stage(channels, out_channels, num_layers, stride)
            channels = out_channels
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=stem,
            first=first,
            stages=nn.Sequential(stages),
            head=conv(channels, self.head_channels, 1),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(self.dropout),
            classifier=nn.Linear(self.head_channels, self.num_classes),
        )
        return nn.Sequential(parts)

    def _stage(self, in_channels: int, out_channels: int, num_layers: int, stride: int) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(1, num_layers + 1):
            layers[f"layer{j}"] = nas.choice(f"layer{j}", self._candidates(in_channels, out_channels, stride))
            in_channels, stride = out_channels, 1
        return nn.Sequential(layers)

    def _candidates(self, in_channels: int, out_channels: int, stride: int) -> dict[str, Callable[[], nn.Module]]:
        candidates: dict[str, Callable[[], nn.Module]] = {
            f"k{kernel}_e{expansion}{'_se' if squeeze_excite else ''}": partial(
                InvertedResidual,
                in_channels,
                out_channels,
                kernel_size=kernel,
                stride=stride,
                expansion=expansion,
                squeeze_excite=squeeze_excite,
            )
            for kernel, expansion, squeeze_excite in product(self.kernels, self.expansions, self.squeeze_excite)
        }
        if stride == 1 and in_channels == out_channels:
            candidates["identity"] = nn.Identity
        return candidates
