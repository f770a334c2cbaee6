"""Stems and auxiliary heads of DARTS networks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Dataset = Literal["cifar", "imagenet"]

STEM_MULTIPLIER = 3
"""Channels of the CIFAR stem, as a multiple of the first cell's."""


def make_stems(dataset: Dataset, in_channels: int, channels: int) -> tuple[nn.Sequential, nn.Sequential, int]:
    """The two stem modules, which make states 0 and 1 of the first cell, and the channels of these states.

    The first module reads the image, the second reads the output of the first. The first CIFAR module keeps the image size, and the second
    is empty. The first ImageNet module halves the image twice, the second once.

    Source: quark0/darts, cnn/model.py.
    """
    if dataset == "cifar":
        wide = STEM_MULTIPLIER * channels
        return nn.Sequential(*_conv_norm(in_channels, wide, stride=1)), nn.Sequential(), wide
    half = channels // 2
    stem0 = nn.Sequential(*_conv_norm(in_channels, half), nn.ReLU(), *_conv_norm(half, channels))
    stem1 = nn.Sequential(nn.ReLU(), *_conv_norm(channels, channels))
    return stem0, stem1, channels


class AuxiliaryHead(nn.Module):
    """A second classifier after the last reduction cell; its loss helps to train the earlier cells.

    Args:
        dataset: The published head, ``"cifar"`` or ``"imagenet"``.
        channels: Channels of the input.
        num_classes: Number of outputs.

    Source: quark0/darts, cnn/model.py: AuxiliaryHeadCIFAR and AuxiliaryHeadImageNet. The ImageNet head has no last batch norm, as
    published.
    """

    def __init__(self, dataset: Dataset, channels: int, num_classes: int) -> None:
        super().__init__()
        cifar = dataset == "cifar"
        self.stride = 3 if cifar else 2
        self.image_size = 32 if cifar else 224
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AvgPool2d(5, self.stride, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768) if cifar else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(768, num_classes)

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


def _conv_norm(in_channels: int, out_channels: int, stride: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out_channels)]
