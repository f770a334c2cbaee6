"""Multilayer perceptrons for tables, with choices of features, depth, width and activations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

import nas
from search_spaces.blocks import check_options, check_sizes

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


class TabularMLP(nas.SearchSpace):
    """A multilayer perceptron: a first layer that reads the features, hidden blocks, and a linear head.

    The choices are ``features.NAME`` (whether a feature is read), ``width`` (equal in all hidden layers, so that depths can be mixed),
    ``depth`` (number of hidden blocks after the first layer), and the activations ``first.activation``, ``block1.activation``, ... A
    setting with a single option is not a choice. A layer is linear, batch norm (if enabled), activation, dropout.

    Args:
        num_features: Number of features of a sample.
        num_outputs: Number of outputs.
        widths: Widths of the hidden layers to choose from.
        depths: Numbers of hidden blocks after the first layer to choose from, each at least 0.
        activations: Activations to choose from: relu, gelu, tanh and silu.
        dropout: Dropout rate after each hidden activation, from 0 to below 1.
        batch_norm: Add a batch norm after each hidden linear layer.
        feature_gates: Choose the features that are read; otherwise all features are read.
        feature_names: Names of the features in the choices, all different: letters, digits and ``_ . + -``; None: 0, 1, ...

    Raises:
        ValueError: A value out of range, or an unknown activation.
    """

    def __init__(
        self,
        num_features: int,
        num_outputs: int,
        widths: Sequence[int] = (16, 32, 64),
        depths: Sequence[int] = (0, 1, 2),
        activations: Sequence[str] = tuple(ACTIVATIONS),
        dropout: float = 0.0,
        batch_norm: bool = False,
        feature_gates: bool = True,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        check_sizes("TabularMLP", num_features=num_features, num_outputs=num_outputs)
        check_options("TabularMLP", "widths", widths)
        for name, values in {"widths": widths, "depths": depths, "activations": activations}.items():
            if not values or len(set(values)) != len(values):
                raise ValueError(f"TabularMLP: {name} must be at least one, all different, got {list(values)}")
        if min(depths) < 0:
            raise ValueError(f"TabularMLP: depths must be at least 0, got {list(depths)}")
        for activation in activations:
            if activation not in ACTIVATIONS:
                raise ValueError(f"TabularMLP: activations must be among {', '.join(ACTIVATIONS)}, got {activation!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"TabularMLP: dropout must be from 0 to below 1, got {dropout}")
        names = [str(i) for i in range(num_features)] if feature_names is None else list(feature_names)
        if len(set(names)) != num_features or len(names) != num_features:
            raise ValueError(
                f"TabularMLP: feature_names must be {num_features} different names, got {len(names)}, {len(set(names))} different"
            )
        self.num_features = num_features
        self.num_outputs = num_outputs
        self.widths = tuple(widths)
        self.depths = tuple(depths)
        self.activations = tuple(activations)
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.feature_gates = feature_gates
        self.feature_names = tuple(names)

    def network(self, stage: str = "search") -> nn.Module:
        """The perceptron.

        Shape:
            - input: (B, num_features)
            - output: (B, num_outputs)
        """
        width = nas.width("width", self.widths) if len(self.widths) > 1 else self.widths[0]
        read = partial(nn.Linear, out_features=width)
        reader = (
            nas.gate("features", read, elements=self.feature_names) if self.feature_gates else read(self.num_features)
        )
        block = partial(self._block, width)
        if len(self.depths) > 1:
            blocks = nas.repeat("depth", block, self.depths)
        else:
            blocks = nn.Sequential(*[block(i) for i in range(self.depths[0])])
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            first=self._layer("first", reader, width), blocks=blocks, head=nn.Linear(width, self.num_outputs)
        )
        return nn.Sequential(parts)

    def _block(self, width: int, i: int) -> nn.Sequential:
        return self._layer(f"block{i + 1}", nn.Linear(width, width), width)

    def _layer(self, name: str, linear: nn.Module, width: int) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict(linear=linear)
        if self.batch_norm:
            layers["norm"] = nn.BatchNorm1d(width)
        candidates = {activation: ACTIVATIONS[activation] for activation in self.activations}
        if len(candidates) > 1:
            with nas.scope(name):
                layers["activation"] = nas.choice("activation", candidates)
        else:
            layers["activation"] = ACTIVATIONS[self.activations[0]]()
        layers["dropout"] = nn.Dropout(self.dropout)
        return nn.Sequential(layers)
