"""Trained networks of any kind as spaces."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import nas
from nas.conversion.convert import MULTIPLE, WIDTHS, Conversion, Options, converted
from nas.io.errors import describe


class Converted(nas.SearchSpace):
    """A network whose layers can become smaller, by :func:`nas.convert`. The choices are named by module paths.

    A search starts from the weights of the network, and so does the retraining of what it finds.

    Args:
        builder: Makes the network: a class or function with its arguments.
        weights: A state dict of the network: a safetensors file, or one of ``torch.save``; None: the weights that `builder` makes.
        input_shape: The shape of one sample of the network's input, without the batch dimension.
        example: Makes an example of the network's inputs, instead of `input_shape`: a tuple, or a dict of keyword arguments.
        width: Shares of the channels to choose from, rounded to multiples of `multiple`.
        multiple: Divides the numbers of channels to choose from.
        order: Which channels are dropped first; see :func:`nas.convert`.
        depth: Whether residual blocks can be dropped.
        skip: Paths of modules that are always kept.

    Raises:
        ValueError: Neither or both of `input_shape` and `example`, or weights that do not fit.
    """

    def __init__(
        self,
        builder: Callable[[], nn.Module] | Callable[[], Any],  # the second one for functions without annotations
        weights: str | None = None,
        input_shape: Sequence[int] | None = None,
        example: Callable[[], Any] | None = None,
        width: Sequence[float] = WIDTHS,
        multiple: int = MULTIPLE,
        order: str = "magnitude",
        depth: bool = True,
        skip: Sequence[str] = (),
    ) -> None:
        if (input_shape is None) == (example is None):
            raise ValueError("Converted: give one of input_shape and example")
        self.builder, self.weights, self.input_shape, self.example = builder, weights, input_shape, example
        self.options = Options(tuple(width), multiple, order, depth, tuple(skip))
        self._conversion: Conversion | None = None

    def network(self, stage: str = "search") -> nn.Module:
        if self._conversion is None:
            self._conversion = self._converted()
        return self._conversion.copy()

    def parent(self) -> nn.Module:
        """The network itself, with its weights; raises ValueError if they do not fit, or if the builder makes no module."""
        model = self.builder()
        if not isinstance(model, nn.Module):
            raise ValueError(f"the builder makes no torch.nn.Module but {type(model).__name__}")
        if self.weights is not None:
            load_weights(model, Path(self.weights))
        return model

    def _converted(self) -> Conversion:
        model = self.parent()
        made = self.example() if self.example is not None else (torch.randn(2, *self.input_shape or ()),)
        kwargs = dict(made) if isinstance(made, Mapping) else {}
        return converted(model, () if kwargs else tuple(made), kwargs, self.options)


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads a state dict.

    Raises:
        ValueError: The file cannot be read, or does not fit the network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are no state dicts
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        if isinstance(state.get("state_dict"), Mapping):
            state = state["state_dict"]
        model.load_state_dict(state)
    except Exception as error:  # readers raise errors of many kinds
        raise ValueError(f"{path}: weights of {type(model).__name__}: {describe(error)}") from error
