"""Shared parts of the examples: command-line options, digits, a training loop, and tables of mean ± standard deviation."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nas.data import Digits
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed
from nas.launch.options import parse_seeds


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean ± standard deviation."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} ± {std:{form}}"


def digits(train: bool) -> tuple[Tensor, Tensor]:
    """scikit-learn's 8x8 digits of the training or the test set.

    Shape:
        - images: (N, 1, 8, 8)
        - labels: (N,)
    """
    dataset = Digits().train_set(False) if train else Digits().test_set()
    assert isinstance(dataset, TensorDataset)
    images, labels = dataset.tensors
    return images, labels


def options_of(
    doc: str | None, seeds: str = "0-2", num_steps: int | None = None, has_picture: bool = False
) -> argparse.Namespace:
    """Reads ``--seeds``, ``--num-steps`` and ``--picture`` from the command line, and limits torch to one thread.

    Args:
        doc: The example's docstring.
        seeds: Default of ``--seeds``.
        num_steps: Default of ``--num-steps``; None: the example has no such option.
        has_picture: Whether the example draws what it learned with the first seed.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=parse_seeds, default=seeds)
    if num_steps is not None:
        parser.add_argument("--num-steps", type=int, default=num_steps)
    if has_picture:
        parser.add_argument("--picture", metavar="FILE", help="draw what the first seed learned, as PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    return options


def train(module: nn.Module, loss: Callable[[int], Tensor], num_steps: int, seed: int) -> None:
    """Trains by AdamW, with one cycle of the learning rate up to 0.003; dropout is keyed by the step.

    Args:
        module: Module to train; in eval mode afterwards.
        loss: Function of the step's number.
        num_steps: Number of steps.
        seed: Seed of dropout.
    """
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
    module.train()
    for step in range(num_steps):
        torch.manual_seed(derive_seed(seed, "dropout", step))
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
        schedule.step()
    module.eval()


def compared(
    methods: Mapping[str, Callable[[int, int], float]], head: tuple[str, str], options: argparse.Namespace
) -> str:
    """A table of the methods' mean ± standard deviation over seeds.

    Args:
        methods: Name -> function of the number of steps and the seed.
        head: Names of the columns.
        options: Result of :func:`options_of`.
    """
    rows = [
        (name, spread([method(options.num_steps, seed) for seed in options.seeds])) for name, method in methods.items()
    ]
    return markdown_table(head, rows)
