"""The network 'mobile'.

Parts of this file are from
- gumbel-nas: Apache License 2.0
- torchvision: Copyright (c) Soumith Chintala 2016, BSD 3-Clause License
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("model.safetensors")
WEIGHTS_SHA256 = ""


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1x1 expansion, depthwise convolution, linear 1x1 projection,
    and a shortcut if input and output shapes match.
    """

    def __init__(
        self,
        shortcut: bool,
        kernel_size: int,
        padding: int,
        out_channels: int,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.layers = nn.Sequential(
            OrderedDict(
                depthwise=nn.Sequential(
                    nn.Conv2d(8, 8, kernel_size, padding=padding, groups=8, bias=False),
                    nn.BatchNorm2d(8),
                    nn.ReLU6(inplace=True),
                ),
                project=nn.Sequential(
                    nn.Conv2d(8, out_channels, 1, bias=False),
                    nn.BatchNorm2d(out_channels),
                ),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus its input if there is a shortcut.

        Shape:
            - input: (B, in_channels, H, W)
            - output: (B, out_channels, ceil(H / stride), ceil(W / stride))
        """
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


class InvertedResidual2(nn.Module):
    """MobileNetV2's block: 1x1 expansion, depthwise convolution, linear 1x1 projection,
    and a shortcut if input and output shapes match.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = False
        self.layers = nn.Sequential(
            OrderedDict(
                expand=nn.Sequential(
                    nn.Conv2d(8, 24, 1, bias=False),
                    nn.BatchNorm2d(24),
                    nn.ReLU6(inplace=True),
                ),
                depthwise=nn.Sequential(
                    nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24, bias=False),
                    nn.BatchNorm2d(24),
                    nn.ReLU6(inplace=True),
                ),
                project=nn.Sequential(
                    nn.Conv2d(24, 8, 1, bias=False),
                    nn.BatchNorm2d(8),
                ),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus its input if there is a shortcut.

        Shape:
            - input: (B, in_channels, H, W)
            - output: (B, out_channels, ceil(H / stride), ceil(W / stride))
        """
        y: Tensor = self.layers(x)
        return y


class SqueezeExcitation(nn.Module):
    """This block implements the Squeeze-and-Excitation block from
    https://arxiv.org/abs/1709.01507 (see Fig. 1). Parameters ``activation``, and
    ``scale_activation`` correspond to ``delta`` and ``sigma`` in eq. 3.
    """

    def __init__(self, channels: int, fc1_channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, fc1_channels, 1)
        self.fc2 = nn.Conv2d(fc1_channels, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Sigmoid()

    def _scale(self, input: Tensor) -> Tensor:
        scale = self.avgpool(input)
        scale = self.fc1(scale)
        scale = self.activation(scale)
        scale = self.fc2(scale)
        return self.scale_activation(scale)

    def forward(self, input: Tensor) -> Tensor:
        scale = self._scale(input)
        return scale * input


class InvertedResidual3(nn.Module):
    """MobileNetV2's block: 1x1 expansion, depthwise convolution, linear 1x1 projection,
    and a shortcut if input and output shapes match.
    """

    def __init__(self, channels: int, fc1_channels: int) -> None:
        super().__init__()
        self.shortcut = True
        self.layers = nn.Sequential(
            OrderedDict(
                depthwise=nn.Sequential(
                    nn.Conv2d(
                        channels, channels, 3, padding=1, groups=channels, bias=False
                    ),
                    nn.BatchNorm2d(channels),
                    nn.ReLU6(inplace=True),
                ),
                squeeze_excite=SqueezeExcitation(
                    channels=channels, fc1_channels=fc1_channels
                ),
                project=nn.Sequential(
                    nn.Conv2d(channels, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                ),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, plus its input if there is a shortcut.

        Shape:
            - input: (B, in_channels, H, W)
            - output: (B, out_channels, ceil(H / stride), ceil(W / stride))
        """
        y: Tensor = self.layers(x)
        return x + y


class Network(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(inplace=True),
        )
        self.first = InvertedResidual(
            shortcut=True, kernel_size=3, padding=1, out_channels=8
        )
        self.stages = nn.Sequential(
            OrderedDict(
                stage1=nn.Sequential(
                    OrderedDict(
                        layer1=InvertedResidual2(),
                        layer2=InvertedResidual3(channels=8, fc1_channels=2),
                    ),
                ),
                stage2=nn.Sequential(
                    OrderedDict(
                        layer1=InvertedResidual(
                            shortcut=False, kernel_size=5, padding=2, out_channels=12
                        ),
                        layer2=InvertedResidual3(channels=12, fc1_channels=3),
                    ),
                ),
            ),
        )
        self.head = nn.Sequential(
            nn.Conv2d(12, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.first(x)
        x = self.stages(x)
        x = self.head(x)
        x = self.pool(x)
        x = self.flatten(x)
        x = self.dropout(x)
        x = self.classifier(x)
        return x


def load(weights: str | Path | None = None) -> Network:
    """The network with its weights, in eval mode.

    Args:
        weights: A safetensors file; by default the one beside this file, which must be as it was exported.
    """
    import hashlib

    from safetensors.torch import load_file

    if weights is None:
        weights = WEIGHTS
        digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
        if WEIGHTS_SHA256 and digest != WEIGHTS_SHA256:
            raise ValueError(
                f"{WEIGHTS} is not as it was exported (SHA-256 differs); "
                "to load it all the same, give its path"
            )
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()
