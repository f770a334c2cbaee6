"""The model card of an export folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nas.export.attention import TOLERANCE
from nas.export.subject import Subject
from nas.io.markdown import escaped, markdown_table

PICTURE = "architecture.svg"

_LOADING = {
    "python": (
        "Python, with torch and safetensors alone",
        "python",
        "from network import load  # network.py of this folder\n\nnetwork = load()",
    ),
    "safetensors": (
        "By gumbel-nas, from `model.safetensors` and `config.json`",
        "python",
        'import nas\n\nnetwork = nas.load(".")  # this folder',
    ),
    "onnx": (
        "ONNX",
        "python",
        'import onnxruntime\n\nsession = onnxruntime.InferenceSession("model.onnx")\n'
        '(output,) = session.run(None, {"input": batch})  # a float32 numpy array',
    ),
    "pt2": ("torch.export", "python", 'import torch\n\nnetwork = torch.export.load("model.pt2").module()'),
    "genotype": (
        "The architecture alone, to train it anew",
        "sh",
        "nas retrain --genotype genotype.json --config CONFIG.yaml",
    ),
}


def model_card(subject: Subject, formats: Sequence[str], attention: Sequence[str] = ()) -> str:
    """README.md of an export folder, with the head that model hubs read.

    Args:
        subject: What was exported.
        formats: What the folder has.
        attention: Layers because of which pt2 is not bitwise equal.
    """
    about = subject.about
    head = {"library_name": "pytorch", "tags": ["neural-architecture-search", "gumbel-nas"]}
    inputs = ", ".join(
        f"{kind} ({', '.join(map(str, shape))})"
        for shape, kind in zip(about["input"]["shapes"], about["input"]["dtypes"], strict=True)
    )
    named = {"search space": about["space"], "task": about["task"], "data": about["data"]}
    facts = {
        **{key: spec["class_path"] for key, spec in named.items() if spec},
        "input": inputs,
        "preprocessing": about["input"]["preprocessing"] or "not described",
        "weights": about["origin"],
        **_metric(about),
        "parameters": f"{about['params']:,}",
        "MACs of one sample": f"{about['macs']:,}",
        **({} if about["seed"] is None else {"seed": str(about["seed"])}),
        "versions": ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v != "not installed"),
    }
    if subject.folded:
        facts["batch norms"] = f"{len(subject.folded)} folded into the layers before them"
    if subject.unparametrized:
        facts["parametrized weights"] = f"{len(subject.unparametrized)} made plain"
    if attention:
        layers = "1 layer" if len(attention) == 1 else f"{len(attention)} layers"
        facts["model.pt2"] = (
            f"within {TOLERANCE:g} of the largest output, for fused attention in {layers} that manifest.json names"
        )
    found = ", found by architecture search" if about["space"] else ""
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {escaped(about['title'])}{found}",
        markdown_table(("", ""), facts.items()),
    ]
    if subject.genotype.choices:
        parts.append(f"## Architecture\n\n![The choices and what was chosen]({PICTURE})")
        parts.append(markdown_table(("choice", "chosen"), [row[:2] for row in subject.genotype.rows()]))
    parts += [
        "## Loading",
        *[f"{title}:\n\n```{kind}\n{code}\n```" for title, kind, code in (_LOADING[name] for name in formats)],
        "## Checking\n\n`nas export --verify .` compares every file with its SHA-256 in `manifest.json`, and what each format computes "
        "with the outputs in `examples.safetensors`. It runs `network.py`.",
    ]
    return "\n\n".join(parts) + "\n"


def _metric(about: Mapping[str, Any]) -> dict[str, str]:
    metric = about["metric"]
    return {} if metric is None else {f"{metric['name']}, {metric['split']} split": f"{metric['value']:.4f}"}
