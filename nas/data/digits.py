"""The 8x8 digits that scikit-learn contains; nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from nas.data.base import SearchDataModule

NUM_TRAIN = 1200


class Digits(SearchDataModule):
    """1,797 images of digits: 1,200 for training, 597 for test. Samples (1, 8, 8) float32 in [0, 1]; targets 0-9.

    Source: E. Alpaydin and C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository, as shipped by scikit-learn.
    """

    preprocessing = "8x8 pixels of 0 to 16, divided by 16"

    def train_set(self, augment: bool) -> Dataset:
        return self._set(slice(None, NUM_TRAIN))

    def test_set(self) -> Dataset:
        return self._set(slice(NUM_TRAIN, None))

    def _set(self, part: slice) -> Dataset:
        images, labels = _digits()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[part]
        return TensorDataset(self._arranged(images[order]), labels[order])

    def _arranged(self, images: Tensor) -> Tensor:
        return images.reshape(-1, 1, 8, 8)


class SequentialDigits(Digits):
    """The images of :class:`Digits` as sequences of 64 pixels, row by row or column by column. Samples (1, 64).

    A row has 8 pixels, so a convolution with dilation 8 reads a column. The best dilations are therefore known.

    Args:
        order: Read row by row or column by column.
        **loading: batch_size and the other arguments of :class:`nas.data.SearchDataModule`.
    """

    def __init__(self, order: Literal["rows", "columns"] = "rows", **loading: Any) -> None:
        super().__init__(**loading)
        self.order = order

    def _arranged(self, images: Tensor) -> Tensor:
        images = images.reshape(-1, 1, 8, 8)
        return (images.transpose(2, 3) if self.order == "columns" else images).reshape(-1, 1, 64)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16.0, torch.tensor(labels, dtype=torch.int64)


class DigitPairs(Digits):
    """Segmentation of strips with one or two digits. Classes of pixels: 0 background, 1 a single digit, 2 one of two digits.

    Samples (1, 8, 24) float32; targets (8, 24) int64; 1,200 for training, 597 for test, made from images of the same set. The class of a
    digit depends on the whole strip, because the left edges of two digits are 8 to 16 pixels apart.
    """

    preprocessing = "8x8 digits in strips of 8x24 pixels, of 0 to 16, divided by 16"

    def _set(self, part: slice) -> Dataset:
        plain = super()._set(part)
        assert isinstance(plain, TensorDataset)
        images = plain.tensors[0][:, 0]
        generator = torch.Generator().manual_seed(0)
        others = images[torch.randperm(len(images), generator=generator)]
        left, right = torch.randint(0, 5, (2, len(images), 1), generator=generator)
        where = torch.arange(8)
        places = [left + where, 12 + right + where]
        paired = torch.rand(len(images), generator=generator) < 0.5
        alone_at = (torch.rand(len(images), generator=generator) < 0.5).long()
        strips = torch.zeros(len(images), 8, 24)
        for side, digits in enumerate((images, others)):
            shown = (digits * (paired | (alone_at == side))[:, None, None]).mT
            strips.mT.scatter_add_(1, places[side][:, :, None].expand(-1, -1, 8), shown)
        targets = (strips > 0.25).long() * (1 + paired.long())[:, None, None]
        return TensorDataset(strips[:, None], targets)
