"""Write the network of a run into files that need no gumbel-nas.

Each file runs in a fresh interpreter that cannot import gumbel-nas, and its
outputs are compared with those of the network. A format that cannot represent
the network, or that computes something else, is left out and the reason is
printed. If no format is left, the command fails and writes nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import CONFIG, GENOTYPE, OVERRIDES, RUN, CommandParser, config_source

FORMATS = """\
formats:
  genotype     genotype.json
  python       network.py, which imports torch alone, and model.safetensors
  safetensors  model.safetensors and config.json, for nas.load(DIR)
  onnx         model.onnx, for any batch size; needs gumbel-nas[onnx]
  pt2          model.pt2 of torch.export, for any batch size
  huggingface  the folder huggingface, for from_pretrained of transformers; for
               its own models only, and then written by default

"""

PARSER = CommandParser("export", __doc__, epilog=FORMATS + OVERRIDES, overrides=True)
SOURCE = PARSER.add_mutually_exclusive_group(required=True)
SOURCE.add_argument("--run", **RUN)
SOURCE.add_argument("--genotype", **GENOTYPE)
SOURCE.add_argument(
    "--verify",
    type=Path,
    metavar="DIR",
    help="check an export folder; runs its Python files and loads its model.pt2, so trust it first",
)
PARSER.add_argument("--config", **CONFIG)
PARSER.add_argument("--formats", metavar="A,B", help="formats to write (all but onnx)")
PARSER.add_argument("--fold-bn", action="store_true", help="fold batch norms into the layers before them")
PARSER.add_argument("--batch", type=int, metavar="N", help="the only batch size of onnx and pt2 (any)")
PARSER.add_argument("--opset", type=int, metavar="N", help="version of the ONNX operators (the exporter's)")
PARSER.add_argument(
    "--tokenizer", type=Path, metavar="DIR", help="folder with the tokenizer of huggingface (the model's)"
)
PARSER.add_argument("--out", type=Path, metavar="DIR", help='new folder ("export" in the run folder)')


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Exports or verifies; returns the result of each check.

    Raises:
        ValueError: A check of an existing export fails.
    """
    if options.verify is not None:
        reason = "--verify checks a folder as it is"
        PARSER.refuse(
            options, reason, "formats", "fold_bn", "batch", "opset", "tokenizer", "out", "config", "overrides"
        )
        from nas.export.verify import complaints, verify

        report = verify(options.verify)
        if wrong := complaints(report):
            raise ValueError(f"{options.verify}: check failed: {'; '.join(wrong)}")
        return {"export": str(options.verify), "verified": report}
    if options.run is not None:
        PARSER.refuse(options, "--run takes the configuration from the run folder", "config", "overrides")
    elif not (options.config and options.out):
        PARSER.error("--genotype FILE needs --config FILE and --out DIR")
    source = config_source(options)
    from nas.export.formats import DEFAULT
    from nas.export.write import ExportOptions
    from nas.runs.stages.export import export_genotype, export_run

    how = ExportOptions(options.fold_bn, options.batch, options.opset, options.tokenizer)
    formats = DEFAULT if options.formats is None else [name for name in options.formats.split(",") if name]
    if options.run is None:
        return export_genotype(options.genotype, source, formats, options.out, options=how)
    return export_run(options.run, formats, options.out, options=how, trusted=options.trust_module)


def show(result: dict[str, Any]) -> None:
    """Prints a line for each format."""
    for name, row in result["verified"].items():
        print(f"{name}: {row['detail']}")
    for name, why in result.get("refused", {}).items():
        print(f"{name}: refused: {why}")
    print(f"export folder: {result['export']}")
