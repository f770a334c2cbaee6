"""What the small studies share: seeds from the command line, mean ± standard deviation, one way to train."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed
from nas.launch.options import parse_seeds as seeds_of


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean ± standard deviation."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):{form}} ± {std:{form}}"


def options_of(doc: str | None, seeds: str = "0-2", num_steps: int | None = None) -> argparse.Namespace:
    """Words of the command line: ``--seeds`` and, where there is a default, ``--num-steps``. Sets one thread.

    Args:
        doc: The script's docstring.
        seeds: Default.
        num_steps: Default; None: there is no such word.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds_of, default=seeds)
    if num_steps is not None:
        parser.add_argument("--num-steps", type=int, default=num_steps)
    options = parser.parse_args()
    torch.set_num_threads(1)
    return options


def train(module: nn.Module, loss: Callable[[int], Tensor], num_steps: int, seed: int) -> None:
    """AdamW with one cycle of its learning rate up to 0.003; dropout is keyed by the step.

    Args:
        module: What is trained; in eval mode afterwards.
        loss: Takes the step's number.
        num_steps: How many.
        seed: Of dropout.
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
    """A table: of each method the mean ± standard deviation over seeds.

    Args:
        methods: Name -> function of the number of steps and the seed.
        head: Names of the columns.
        options: As :func:`options_of` reads them.
    """
    rows = [
        (name, spread([method(options.num_steps, seed) for seed in options.seeds])) for name, method in methods.items()
    ]
    return markdown_table(head, rows)
