"""The model card of an export folder."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from nas.export.attention import TOLERANCE
from nas.export.huggingface import auto_classes
from nas.export.subject import Subject
from nas.io.markdown import escaped, fenced, markdown_table

PICTURE = "architecture.svg"

_LOADING = {
    "python": (
        "Python, with torch and safetensors alone",
        "python",
        "from network import load  # network.py of this folder\n\nnetwork = load()",
    ),
    "safetensors": (
        "With gumbel-nas, from `model.safetensors` and `config.json`",
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
    "huggingface": (
        "With transformers, from the folder `huggingface`",
        "python",
        'from transformers import AutoModel\n\nnetwork = AutoModel.from_pretrained("huggingface", trust_remote_code=True)',
    ),
    "genotype": (
        "The architecture alone, to train it again",
        "sh",
        "nas retrain --genotype genotype.json --config CONFIG.yaml",
    ),
}


def model_card(subject: Subject, formats: Sequence[str], attention: Sequence[str] = ()) -> str:
    """README.md of an export folder, with front matter for model hubs; `attention` names the layers of fused attention."""
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
        "parameters": f"{about['params']:,}",
        "MACs of one sample": f"{about['macs']:,}",
        "versions": ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v != "not installed"),
    }
    if metric := about["metric"]:
        facts[f"{metric['name']}, {metric['split']} split"] = f"{metric['value']:.4f}"
    if about["seed"] is not None:
        facts["seed"] = str(about["seed"])
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
        parts.append(f"## Architecture\n\n![The architecture]({PICTURE})")
        parts.append(markdown_table(("choice", "chosen"), [row[:2] for row in subject.genotype.rows()]))
    auto = auto_classes(subject.network)[0] if "huggingface" in formats else ""
    parts += [
        "## Loading",
        *[
            f"{title}:\n\n{fenced(code.replace('AutoModel', auto), kind)}"
            for title, kind, code in (_LOADING[name] for name in formats)
        ],
        "## Checking\n\n`nas export --verify .` compares each file with its SHA-256 in `manifest.json`, and the outputs of each "
        "format with those in `examples.safetensors`. It runs the Python files of this folder.",
    ]
    return "\n\n".join(parts) + "\n"
