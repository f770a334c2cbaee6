"""Datasets of torchvision by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms import v2

from nas.data.base import SearchDataModule
from nas.io.reading import size_of

Name = Literal["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "ImageFolder"]
Transforms = list[Callable[[Any], Any]]


FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Supported image formats. For other formats, such as EPS, Pillow may start a program."""


def load_image(path: str) -> Image.Image:
    """An image file as RGB; raises ValueError if its content has none of `FORMATS`, or if it is not a regular file."""
    try:
        size_of(Path(path))
        with Image.open(path, formats=FORMATS) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"{path}: not an image: {error}") from None


class Vision(SearchDataModule):
    """MNIST, FashionMNIST, CIFAR10, CIFAR100, or ImageFolder with ``train`` and ``test`` folders in `root`.

    Images become float32 tensors (C, H, W) in [0, 1] before the transforms. Transforms must use torch's, Python's or numpy's global random
    state, as torchvision's transforms do. For each sample, (seed, epoch, index) seeds this state.

    Args:
        name: Name of the dataset.
        root: Folder of the dataset, also for a download.
        download: Download the dataset before a training if it is missing; not for ImageFolder.
        train_transforms: torchvision.transforms.v2 augmentations, for training only.
        transforms: torchvision.transforms.v2 steps for all images, after the augmentations (for example resize, normalize).
        **loading: batch_size and the other arguments of :class:`nas.data.SearchDataModule`.

    Raises:
        ValueError: `download` is true for ImageFolder.
    """

    def __init__(
        self,
        name: Name,
        root: str,
        download: bool = False,
        train_transforms: Transforms | None = None,
        transforms: Transforms | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if name == "ImageFolder" and download:
            raise ValueError("Vision: ImageFolder reads a folder of your own; download must be false")
        self.dataset: str = name
        self.root = root
        self.download = download
        self.augmentations = list(train_transforms or [])
        self.transforms = list(transforms or [])
        self.preprocessing = "; ".join(["pixels of 0 to 255, divided by 255", *map(str, self.transforms)])

    def prepare_data(self) -> None:
        if self.download:
            for train in (True, False):
                self._set(train, [], download=True)

    def train_set(self, augment: bool) -> Dataset:
        return self._set(True, self.augmentations if augment else [])

    def test_set(self) -> Dataset:
        return self._set(False, [])

    def _set(self, train: bool, augmentations: Transforms, download: bool = False) -> Dataset:
        steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *augmentations, *self.transforms]
        transform = v2.Compose([*steps, v2.ToPureTensor()])
        try:
            if self.dataset == "ImageFolder":
                folder = Path(self.root) / ("train" if train else "test")
                return datasets.ImageFolder(str(folder), transform=transform, loader=load_image)
            dataset = getattr(datasets, self.dataset)
            return dataset(self.root, train=train, download=download, transform=transform)
        except (RuntimeError, FileNotFoundError) as error:
            raise ValueError(f"Vision: {self.dataset} under {self.root}: {error}") from None
