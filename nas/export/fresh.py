"""Runs exported files in an interpreter that cannot import this framework.

Command: ``python -I fresh.py FOLDER RESULT FORMAT...``. The script writes the outputs of each format to RESULT, a safetensors file with the
keys ``FORMAT/output.BATCH.I``. It prints one JSON object: format -> null, or an error.
"""

import importlib.util
import json
import os
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
    """The network of network.py."""
    spec = importlib.util.spec_from_file_location("network", folder / "network.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["network"] = module
    spec.loader.exec_module(module)
    network: Network = module.load()
    return network


def pt2(folder: Path) -> Network:
    """The network of model.pt2."""
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


def huggingface(folder: Path) -> Network:
    """The model of the Hugging Face folder, which returns no cache of keys and values."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path.cwd() / "modules")}
    import transformers

    path = folder / "huggingface"
    config = json.loads((path / "config.json").read_text())
    (name, *_) = config.get("auto_map") or config["architectures"]
    model = getattr(transformers, name).from_pretrained(path, trust_remote_code=True)
    model.config.use_cache = False
    network: Network = model
    return network


LOADERS = {"python": python, "pt2": pt2, "onnx": onnx, "huggingface": huggingface}


@torch.no_grad()
def main(folder: Path, result: str, formats: list[str]) -> None:
    """Runs every format on the examples of the folder."""
    torch.set_num_threads(1)
    examples = load_file(folder / "examples.safetensors")
    inputs = [examples[f"input.{i}"] for i in range(sum(key.startswith("input.") for key in examples))]
    sizes = sorted({int(key.split(".")[1]) for key in examples if key.startswith("output.")})
    errors: dict[str, str | None] = {}
    outputs: dict[str, torch.Tensor] = {}
    for name in formats:
        try:
            network = LOADERS[name](folder)
            for size in sizes:
                found = tree_leaves(network(*[tensor[:size].clone() for tensor in inputs]))
                for i, tensor in enumerate(found):
                    outputs[f"{name}/output.{size}.{i}"] = tensor.detach().clone().contiguous()
            errors[name] = None
        except Exception as error:  # the code of a file may raise anything
            errors[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    save_file(outputs, result)
    print(json.dumps(errors))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
