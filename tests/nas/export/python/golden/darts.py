"""The network 'darts'.

Parts of this file are from
- gumbel-nas: Apache License 2.0
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("model.safetensors")
WEIGHTS_SHA256 = ""


class SumInputs(nn.Module):
    """Sums chosen inputs, each through its own module."""

    def __init__(self, indices: tuple[int, ...], branches: nn.ModuleList) -> None:
        super().__init__()
        self.indices = indices
        self.branches = branches

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The sum.

        Args:
            inputs: All inputs, including unused inputs.

        Shape:
            - output: that of each branch
        """
        pairs = zip(self.indices, self.branches, strict=True)
        outputs = [branch(inputs[i]) for i, branch in pairs]
        total: Tensor = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total


class TwoHalves(nn.Module):
    """Two strided 1x1 convolutions with half of the channels each; the second reads the
    image shifted by one pixel down and right.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 1, stride=2, bias=False)
        self.conv2 = nn.Conv2d(in_channels, 8, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        shifted = F.pad(x[:, :, 1:, 1:], (0, width % 2, 0, height % 2))
        return torch.cat([self.conv1(x), self.conv2(shifted)], dim=1)


class AuxiliaryHead(nn.Module):
    """A second classifier after the last reduction cell; its loss helps to train the
    earlier cells.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stride = 3
        self.image_size = 32
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, stride=3, count_include_pad=False),
            nn.Conv2d(32, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(768, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The auxiliary logits.

        Shape:
            - input: (B, channels, 8, 8) of the CIFAR network, (B, channels, 7, 7) of the ImageNet network
            - output: (B, num_classes)

        Raises:
            ValueError: The input has another size, so that pooling does not return 2 x 2.
        """
        if any((size - 5) // self.stride != 1 for size in x.shape[-2:]):
            size = self.image_size
            raise ValueError(
                f"the auxiliary head needs images of {size} x {size}, but got features of size {tuple(x.shape[-2:])}; "
                "use such images, or set auxiliary to false"
            )
        logits: Tensor = self.classifier(self.features(x))
        return logits


class Cell(nn.Module):
    """One cell. `before`: channels of its inputs; `reduces`: it halves the image;
    `reduced`: the previous cell halved the image.
    """

    def __init__(
        self,
        preprocess0: nn.Sequential,
        in_channels: int,
        out_channels: int,
        nodes: nn.ModuleList,
    ) -> None:
        super().__init__()
        self.preprocess0 = preprocess0
        self.preprocess1 = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.nodes = nodes

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in self.nodes:
            states.append(node(states))
        return torch.cat(states[2:], dim=1)


class Network(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary_at = 2
        self.stem0 = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
        )
        self.stem1 = nn.Sequential()
        self.cells = nn.ModuleList(
            [
                Cell(
                    preprocess0=nn.Sequential(
                        nn.ReLU(),
                        nn.Conv2d(12, 4, 1, bias=False),
                        nn.BatchNorm2d(4),
                    ),
                    in_channels=12,
                    out_channels=4,
                    nodes=nn.ModuleList(
                        [
                            SumInputs(
                                indices=(0, 1),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.AvgPool2d(
                                                3,
                                                stride=1,
                                                padding=1,
                                                count_include_pad=False,
                                            ),
                                        ),
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                4, 4, 5, padding=2, groups=4, bias=False
                                            ),
                                            nn.Conv2d(4, 4, 1, bias=False),
                                            nn.BatchNorm2d(4),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                4, 4, 5, padding=2, groups=4, bias=False
                                            ),
                                            nn.Conv2d(4, 4, 1, bias=False),
                                            nn.BatchNorm2d(4),
                                        ),
                                    ],
                                ),
                            ),
                            SumInputs(
                                indices=(0, 1),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.MaxPool2d(3, stride=1, padding=1),
                                        ),
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                4, 4, 3, padding=1, groups=4, bias=False
                                            ),
                                            nn.Conv2d(4, 4, 1, bias=False),
                                            nn.BatchNorm2d(4),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                4, 4, 3, padding=1, groups=4, bias=False
                                            ),
                                            nn.Conv2d(4, 4, 1, bias=False),
                                            nn.BatchNorm2d(4),
                                        ),
                                    ],
                                ),
                            ),
                        ],
                    ),
                ),
                Cell(
                    preprocess0=nn.Sequential(
                        nn.ReLU(),
                        nn.Conv2d(12, 8, 1, bias=False),
                        nn.BatchNorm2d(8),
                    ),
                    in_channels=8,
                    out_channels=8,
                    nodes=nn.ModuleList(
                        [
                            SumInputs(
                                indices=(0, 1),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                8,
                                                8,
                                                3,
                                                stride=2,
                                                padding=1,
                                                groups=8,
                                                bias=False,
                                            ),
                                            nn.Conv2d(8, 8, 1, bias=False),
                                            nn.BatchNorm2d(8),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                8, 8, 3, padding=1, groups=8, bias=False
                                            ),
                                            nn.Conv2d(8, 8, 1, bias=False),
                                            nn.BatchNorm2d(8),
                                        ),
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                8,
                                                8,
                                                3,
                                                stride=2,
                                                padding=1,
                                                groups=8,
                                                bias=False,
                                            ),
                                            nn.Conv2d(8, 8, 1, bias=False),
                                            nn.BatchNorm2d(8),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                8, 8, 3, padding=1, groups=8, bias=False
                                            ),
                                            nn.Conv2d(8, 8, 1, bias=False),
                                            nn.BatchNorm2d(8),
                                        ),
                                    ],
                                ),
                            ),
                            SumInputs(
                                indices=(1, 2),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.AvgPool2d(
                                                3,
                                                stride=2,
                                                padding=1,
                                                count_include_pad=False,
                                            ),
                                        ),
                                        nn.Sequential(
                                            nn.MaxPool2d(3, stride=1, padding=1),
                                        ),
                                    ],
                                ),
                            ),
                        ],
                    ),
                ),
                Cell(
                    preprocess0=nn.Sequential(
                        nn.ReLU(),
                        TwoHalves(in_channels=8),
                        nn.BatchNorm2d(16),
                    ),
                    in_channels=16,
                    out_channels=16,
                    nodes=nn.ModuleList(
                        [
                            SumInputs(
                                indices=(0, 1),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                3,
                                                stride=2,
                                                padding=1,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                3,
                                                padding=1,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                        ),
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                3,
                                                stride=2,
                                                padding=1,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                3,
                                                padding=1,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                        ),
                                    ],
                                ),
                            ),
                            SumInputs(
                                indices=(1, 2),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.AvgPool2d(
                                                3,
                                                stride=2,
                                                padding=1,
                                                count_include_pad=False,
                                            ),
                                        ),
                                        nn.Sequential(
                                            nn.MaxPool2d(3, stride=1, padding=1),
                                        ),
                                    ],
                                ),
                            ),
                        ],
                    ),
                ),
                Cell(
                    preprocess0=nn.Sequential(
                        nn.ReLU(),
                        TwoHalves(in_channels=16),
                        nn.BatchNorm2d(16),
                    ),
                    in_channels=32,
                    out_channels=16,
                    nodes=nn.ModuleList(
                        [
                            SumInputs(
                                indices=(0, 1),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.AvgPool2d(
                                                3,
                                                stride=1,
                                                padding=1,
                                                count_include_pad=False,
                                            ),
                                        ),
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                5,
                                                padding=2,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                5,
                                                padding=2,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                        ),
                                    ],
                                ),
                            ),
                            SumInputs(
                                indices=(0, 1),
                                branches=nn.ModuleList(
                                    [
                                        nn.Sequential(
                                            nn.MaxPool2d(3, stride=1, padding=1),
                                        ),
                                        nn.Sequential(
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                3,
                                                padding=1,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                            nn.ReLU(),
                                            nn.Conv2d(
                                                16,
                                                16,
                                                3,
                                                padding=1,
                                                groups=16,
                                                bias=False,
                                            ),
                                            nn.Conv2d(16, 16, 1, bias=False),
                                            nn.BatchNorm2d(16),
                                        ),
                                    ],
                                ),
                            ),
                        ],
                    ),
                ),
            ],
        )
        self.auxiliary_head = AuxiliaryHead()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        auxiliary_logits = None
        for i, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1)
            if self.auxiliary_head is not None and i == self.auxiliary_at:
                if self.training:
                    auxiliary_logits = self.auxiliary_head(s1)
        logits: Tensor = self.classifier(self.pool(s1).flatten(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)


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
