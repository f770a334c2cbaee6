"""Runs exported files where this framework cannot be imported.

A script of its own: ``python -I fresh.py FOLDER RESULT FORMAT...``. It writes RESULT, a safetensors file with the outputs of each format
under ``FORMAT/output.BATCH.I``, and prints one JSON object: format -> null, or what went wrong.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
for blocked in ("nas", "search_spaces"):
    sys.modules[blocked] = None  # type: ignore[assignment]

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

Network = Callable[..., Any]


def python(folder: Path) -> Network:
    """What network.py loads."""
    spec = importlib.util.spec_from_file_location("network", folder / "network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["network"] = module
    spec.loader.exec_module(module)
    network: Network = module.load()
    return network


def pt2(folder: Path) -> Network:
    """What torch.export loads."""
    return torch.export.load(folder / "model.pt2").module()


def onnx(folder: Path) -> Network:
    """A function that runs the ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return run


LOADERS = {"python": python, "pt2": pt2, "onnx": onnx}


@torch.no_grad()
def main(folder: Path, result: str, formats: list[str]) -> None:
    """Runs every format on the examples of the folder."""
    torch.set_num_threads(1)
    examples = load_file(folder / "examples.safetensors")
    inputs = [examples[f"input.{i}"] for i in range(sum(key.startswith("input.") for key in examples))]
    sizes = sorted({int(key.split(".")[1]) for key in examples if key.startswith("output.")})
    said: dict[str, str | None] = {}
    outputs: dict[str, torch.Tensor] = {}
    for name in formats:
        try:
            network = LOADERS[name](folder)
            for size in sizes:
                found = tree_leaves(network(*[tensor[:size].clone() for tensor in inputs]))
                for i, tensor in enumerate(found):
                    outputs[f"{name}/output.{size}.{i}"] = tensor.detach().clone().contiguous()
            said[name] = None
        except Exception as error:  # whatever a file's code raises is what there is to say of it
            said[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    save_file(outputs, result)
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
