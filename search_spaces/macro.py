"""The eight layers of NAS-Bench-Macro."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn
from torchvision.ops.misc import Conv2dNormActivation

import nas
from search_spaces.blocks import InvertedResidual, check_sizes, ordered_labels

LABELS = ("identity", "mb3_k3", "mb6_k5")
HEAD_CHANNELS = 1280


class MacroNet(nas.SearchSpace):
    """A chain of layers in stages; each layer is an identity or one of two inverted residuals.

    The first layer of a stage halves the image and doubles the channels; its identity is a strided 1x1 convolution with batch norm. With
    the default sizes there are 3^8 = 6,561 architectures.

    Args:
        channels: Channels of the stem; the first stage has twice as many.
        stages: Number of layers of each stage.
        num_classes: Number of outputs.
        in_channels: Channels of the input.

    Raises:
        ValueError: A value out of range.

    Source: Su et al. 2021, "Prioritized Architecture Sampling with Monto-Carlo Tree Search", and its code, NAS-Bench-Macro, train/model.py.
    Its activation is ReLU, not MobileNetV2's ReLU6.
    """

    def __init__(
        self,
        channels: int = 32,
        stages: Sequence[int] = (2, 3, 3),
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        check_sizes("MacroNet", channels=channels, num_classes=num_classes, in_channels=in_channels)
        if min(stages, default=0) < 1:
            raise ValueError(f"MacroNet: stages must be at least one number, each at least 1, got {list(stages)}")
        self.channels = channels
        self.stages = tuple(stages)
        self.num_classes = num_classes
        self.in_channels = in_channels

    @property
    def choice_names(self) -> tuple[str, ...]:
        """``layer1``, ``layer2``, ..., in the order of the network and of the published string."""
        return tuple(f"layer{i + 1}" for i in range(sum(self.stages)))

    def network(self, stage: str = "search") -> nn.Module:
        """Stem, layers and head.

        Shape:
            - input: (B, in_channels, H, W)
            - output: (B, num_classes)
        """
        conv = partial(Conv2dNormActivation, activation_layer=nn.ReLU)
        stem = conv(self.in_channels, self.channels, 3)
        names = iter(self.choice_names)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = self.channels
        for num_layers in self.stages:
            for i in range(num_layers):
                name = next(names)
                out_channels, stride = (2 * channels, 2) if i == 0 else (channels, 1)
                layers[name] = nas.choice(name, _candidates(channels, out_channels, stride))
                channels = out_channels
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=stem,
            layers=nn.Sequential(layers),
            head=conv(channels, HEAD_CHANNELS, 1),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(HEAD_CHANNELS, self.num_classes),
        )
        return nn.Sequential(parts)

    def parse_genotype(self, text: str) -> nas.Genotype:
        """Parses an architecture in the benchmark's notation.

        Args:
            text: One digit per layer: 0 identity, 1 mb3_k3, 2 mb6_k5.

        Raises:
            ValueError: The text does not have this form.
        """
        names = self.choice_names
        if len(text) != len(names):
            raise ValueError(f"NAS-Bench-Macro string: expected {len(names)} digits, got {len(text)}: {text!r:.80}")
        digits = [str(k) for k in range(len(LABELS))]
        for name, digit in zip(names, text, strict=True):
            if digit not in digits:
                raise ValueError(f"NAS-Bench-Macro string: {name}: expected one of {', '.join(digits)}, got {digit!r}")
        return nas.Genotype({name: LABELS[int(digit)] for name, digit in zip(names, text, strict=True)})

    def format_genotype(self, genotype: nas.Genotype) -> str:
        """Formats a genotype in the benchmark's notation; see :meth:`parse_genotype`.

        Raises:
            ValueError: The genotype does not fit this space.
        """
        labels = ordered_labels(genotype.choices, self.choice_names, LABELS)
        return "".join(str(LABELS.index(label)) for label in labels)


def _candidates(in_channels: int, out_channels: int, stride: int) -> dict[str, Callable[[], nn.Module]]:
    block = partial(InvertedResidual, in_channels, out_channels, stride=stride, activation=nn.ReLU)
    identity: Callable[[], nn.Module] = nn.Identity
    if stride != 1 or in_channels != out_channels:
        identity = partial(Conv2dNormActivation, in_channels, out_channels, 1, stride, padding=0, activation_layer=None)
    return {
        "identity": identity,
        "mb3_k3": partial(block, kernel_size=3, expansion=3),
        "mb6_k5": partial(block, kernel_size=5, expansion=6),
    }
