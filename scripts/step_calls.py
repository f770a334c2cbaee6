"""Number of calls into this project's code in one training step, and in one forward of a supernet.

Command: python scripts/step_calls.py

"step" is one soft training step, first order, of three choices of five dilated convolutions: everything inside Lightning's
``training_step``. "forward" is one forward of the NAS-Bench-201 supernet, 18 choices. Both are counted after two runs. A
call is a call, or the resumption of a generator, of a function, comprehension or class body in a file of nas/ or search_spaces/;
"files" counts these files. Python 3.12 inlines comprehensions, so its figures are lower.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

import nas
from nas.data import SequentialDigits
from nas.io.markdown import markdown_table
from nas.relaxations import GumbelSoftmax
from nas.tasks import Classification
from nas.tau import Constant
from search_spaces.dilation import DilationNet1d
from search_spaces.nasbench201 import NASBench201

ROOT = Path(__file__).parents[1]


def count_calls(run: Callable[[], Any]) -> Counter[str]:
    """Calls of this project's functions while `run` runs: file -> number."""
    found: Counter[str] = Counter()
    folders = tuple(f"{ROOT / name}/" for name in ("nas", "search_spaces"))

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folders):
            found[frame.f_code.co_filename.removeprefix(f"{ROOT}/")] += 1

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def step_calls() -> Counter[str]:
    """Calls of one training step, the third."""
    module = nas.SearchModule(
        space=DilationNet1d(num_layers=3, channels=16, dilations=[1, 2, 4, 8, 16]),
        relaxation=GumbelSoftmax(),
        tau=Constant(1.0),
        task=Classification(10),
    )
    counted: list[Counter[str]] = []
    step = module.training_step

    def training_step(batch: Any, batch_idx: int) -> None:
        counted.append(count_calls(lambda: step(batch, batch_idx)))

    module.training_step = training_step  # type: ignore[method-assign]
    trainer = pl.Trainer(
        max_epochs=1,
        limit_train_batches=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, SequentialDigits(batch_size=64).search_loader(0))
    return counted[-1]


def forward_calls() -> Counter[str]:
    """Calls of one forward, the third."""
    supernet = nas.Supernet(NASBench201(channels=16, cells_per_stage=1).network())
    images = torch.randn(8, 3, 32, 32)
    sample = supernet.sample(GumbelSoftmax(), 1.0)
    return [count_calls(lambda: supernet(images, op_weights=sample)) for _ in range(3)][-1]


def main() -> None:
    """Prints the figures."""
    rows, lines = [], []
    for name, found in (("step", step_calls()), ("forward", forward_calls())):
        rows.append([name, f"{found.total():,}", str(len(found))])
        lines += [f"  {name}: {file} {number}" for file, number in found.most_common()]
    print(markdown_table(["", "calls", "files"], rows))
    print(*lines, sep="\n")
    print(f"Python {platform.python_version()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
