"""Forward and backward of a whole supernet, compared with a plain `sum(w * op(x))` supernet and with the derived network.

Command: python scripts/bench_step.py --threads 1

The NAS-Bench-201 supernet (16 channels, one cell a stage, batch 32 of 32 x 32 images). "plain" runs every candidate, multiplies its
output and adds, in torch's own operations; "soft" is the supernet of this project with the same weights and the same draw. "sampled" runs
one candidate of each choice; "discrete" is the derived network of the same path. "grown" is a chain of six choices of K convolutions, with
one sampled candidate each. Times include draw, forward, loss and backward.

scripts/bench_mix.py describes how times and ratios are measured. Other figures do not depend on the clock: "operations" counts the calls of
torch's dispatcher, views and allocations included, and one call for each native kernel; "bytes" counts all tensors that operations read and
write, except views and allocations; "kept" is the memory of all tensors that autograd saves, each counted once.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch
from bench_mix import pin, show, take_turns
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nas
from nas.ops import calls, fused
from nas.profile.memory import saved_bytes
from nas.relaxations import GumbelSoftmax, Relaxation, SampledPath
from search_spaces.nasbench201 import NASBench201

BATCH = 32
NUM_PATHS = 16
VIEWS = frozenset(
    "alias as_strided detach expand narrow permute select slice split split_with_sizes squeeze t transpose unbind unsqueeze view".split()
)
Step = Callable[[int], Tensor]


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes that they read and write."""

    def __init__(self) -> None:
        """Starts from nothing."""
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.operations[name] += 1
        if name not in VIEWS and not name.startswith("empty"):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result

    @contextmanager
    def native(self) -> Iterator[None]:
        """Native kernels run under this mode, which otherwise keeps them from it, and are counted."""
        call = calls.call

        def counted(function: Any, tensor: Tensor, code: int, num: int, num_elements: int, *args: Any) -> None:
            self.operations[function.__name__] += 1
            arrays = [array for array in args if isinstance(array, ctypes.Array)]
            # those of the arrays, and the result or its gradient
            num_tensors = 1 + sum(pointer is not None for array in arrays for pointer in array)
            self.bytes += num_tensors * num_elements * tensor.element_size()
            call(function, tensor, code, num, num_elements, *args)

        with mock.patch.object(calls, "call", counted), mock.patch.object(fused, "_len_torch_dispatch_stack", int):
            yield


@contextmanager
def plain_torch() -> Iterator[None]:
    """Mixing is torch's own expression."""
    with mock.patch.dict(fused._live, {"cpu": None, "cuda": None}):
        yield


def grown(k: int) -> nn.Module:
    """Six choices of k convolutions."""

    def convolution() -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))

    places = [nas.choice(f"place{i}", {f"conv{j}": convolution for j in range(k)}) for i in range(6)]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), *places, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


class Bench:
    """The contestants, on one batch; a step is numbered by its draw."""

    def __init__(self) -> None:
        """Builds them."""
        torch.manual_seed(0)
        space = NASBench201(channels=16, cells_per_stage=1)
        self.soft = nas.Supernet(space.network())
        self.plain = nas.Supernet(space.network(), fold_weights=False)
        self.plain.load_state_dict(self.soft.state_dict())
        self.images, self.labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
        self.paths = [self.discrete(i) for i in range(NUM_PATHS)]
        self.grown = {k: nas.Supernet(grown(k)) for k in (2, 16)}

    def discrete(self, number: int) -> nn.Module:
        """The derived network of the path that a sampled step takes."""
        active = self.draw(self.soft, SampledPath(), number).active
        assert active is not None
        rows = zip(self.soft.choices.items(), active[:, 0].tolist(), strict=True)
        return self.soft.derive({name: labels[k] for (name, labels), k in rows})

    @staticmethod
    def draw(supernet: nas.Supernet, relaxation: Relaxation, number: int) -> nas.OpWeights:
        """The op weights of a numbered step."""
        return supernet.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(number % NUM_PATHS))

    def loss(self, supernet: nas.Supernet, relaxation: Relaxation, number: int) -> Tensor:
        """Draw, forward and loss."""
        output = supernet(self.images, op_weights=self.draw(supernet, relaxation, number))
        return F.cross_entropy(output, self.labels)

    def discrete_loss(self, number: int) -> Tensor:
        """Forward and loss of the discrete network."""
        return F.cross_entropy(self.paths[number % NUM_PATHS](self.images), self.labels)

    def difference(self) -> float:
        """Largest difference between outputs of plain and soft."""
        with torch.no_grad():
            sample = self.draw(self.soft, GumbelSoftmax(), 0)
            with plain_torch():
                expected = self.plain(self.images, op_weights=sample)
            return float((self.soft(self.images, op_weights=sample) - expected).abs().max())


def stepped(loss: Step, module: nn.Module, around: Callable[[], Any] = nullcontext) -> Callable[[int], None]:
    """Forward and backward; gradients start from nothing."""

    def step(number: int) -> None:
        for parameter in module.parameters():
            parameter.grad = None
        with around():
            loss(number).backward()

    return step


def count(loss: Step, module: nn.Module, around: Callable[[], Any] = nullcontext) -> dict[str, float]:
    """The figures that do not depend on the clock."""
    stepped(loss, module, around)(0)
    for parameter in module.parameters():
        parameter.grad = None
    traffic = Traffic()
    with ExitStack() as stack:
        stack.enter_context(around())
        if around is nullcontext:
            stack.enter_context(traffic.native())
        stack.enter_context(traffic)
        loss(0).backward()
    with around():
        kept = saved_bytes(partial(loss, 0), [*module.parameters(), *module.buffers()])
    return {"operations": traffic.operations.total(), "bytes": traffic.bytes, "kept": kept}


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row for each pair: the figures of both, and ours through the other's."""
    bench = Bench()
    soft: Step = partial(bench.loss, bench.soft, GumbelSoftmax())
    plain: Step = partial(bench.loss, bench.plain, GumbelSoftmax())
    sampled: Step = partial(bench.loss, bench.soft, SampledPath())
    few: Step = partial(bench.loss, bench.grown[2], SampledPath())
    many: Step = partial(bench.loss, bench.grown[16], SampledPath())
    paths = nn.ModuleList(bench.paths)
    times = take_turns(
        {
            "plain": stepped(plain, bench.plain, plain_torch),
            "soft": stepped(soft, bench.soft),
            "sampled": stepped(sampled, bench.soft),
            "discrete": stepped(bench.discrete_loss, paths),
            "grown, K = 2": stepped(few, bench.grown[2]),
            "grown, K = 16": stepped(many, bench.grown[16]),
        },
        range(NUM_PATHS),
        NUM_PATHS,
        rounds,
    )
    counted = {"plain": count(plain, bench.plain, plain_torch), "soft": count(soft, bench.soft)}
    counted |= {"sampled": count(sampled, bench.soft), "discrete": count(bench.discrete_loss, paths)}
    rows = []
    for ours, other in (("soft", "plain"), ("sampled", "discrete"), ("grown, K = 16", "grown, K = 2")):
        ratio = statistics.median(a / b for a, b in zip(times[ours], times[other], strict=True))
        row = {"ours": ours, "other": other, "figure": "time", "ratio": ratio}
        rows.append(row | {"of ours": statistics.median(times[ours]), "of other": statistics.median(times[other])})
        for figure, value in counted.get(ours, {}).items():
            beside = counted[other][figure]
            row = {"ours": ours, "other": other, "figure": figure, "ratio": value / beside}
            rows.append(row | {"of ours": value, "of other": beside})
    rows.append({"ours": "soft", "other": "plain", "figure": "largest difference", "of ours": bench.difference()})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; times in microseconds, memory in bytes."""
    lines = ["| ours | other | figure | ours | other | ratio |", "|---|---|---|---|---|---|"]
    for row in rows:
        values = " | ".join(f"{row[key]:,.6g}" if key in row else "" for key in ("of ours", "of other"))
        ratio = f"{row['ratio']:.3f}" if "ratio" in row else ""
        lines.append(f"| {row['ours']} | {row['other']} | {row['figure']} | {values} | {ratio} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="of 16 steps of each contestant")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    pin(options.threads)
    rows = measure(options.rounds)
    show(rows, table(rows), as_json=options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
