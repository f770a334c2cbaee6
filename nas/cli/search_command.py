"""Search a space, then derive and evaluate the architecture.

The evaluation uses the weights of the search. --resume continues a stopped
search at the exact step. For a finished search it prints the summary.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nas.cli.parsing import CONFIG, FORCE, CommandParser, config_source
from nas.cli.printing import outcome_lines, print_pairs
from nas.genotype import labels_of
from nas.runs.options import trust_words

KEYS = """\
common keys of a configuration; --KEY VALUE overrides the files:
  seed_everything       seed of weights, noise and data order (0)
  trainer.max_epochs    epochs; also accelerator, devices, num_nodes, precision,
                        num_threads, max_time, callbacks, logger (class paths)
  model.space           class_path and init_args of the search space
  model.relaxation      nas.relaxations.GumbelSoftmax, GumbelRao, ReinMax,
                        SampledPath, TwoPath, Dirichlet, Softmax, BinaryConcrete
  model.tau             nas.tau.Exponential, Linear, Cosine, Constant,
                        Reheating, DiversityReheating, LearnedTau
  model.alpha           nas.alpha.Factorised, Autoregressive, Pairwise
  model.bilevel         nas.bilevel.FirstOrder, Unrolled, Joint, ScoreFunction
  model.regularizers    nas.regularizers.Entropy, Sparsity, BetaDecay, ...
  model.task            nas.tasks.Classification, MultiLabel, Heads, ...
  model.weight_optimizer, model.arch_optimizer    classes of torch.optim
  model.warmup_epochs   epochs before alpha is trained
  model.warmup_paths    paths of the warm-up: nas.paths.Fair, Uniform,
                        Stratified; null: the relaxation draws them
  model.num_paths       parts of a batch, each with its own path (1);
                        num_micro_batches: parts that run in turn
  model.cost            limits: {macs: {max: 4.0e7}, latency_ms: {max: 3}}; also
                        params, activations, or dotted path of a function
  model.derive          nas.derive.Argmax, Ranked, Evolution
  model.guards          max_skip_share, stable_epochs, settled_entropy,
                        early_entropy: guards against collapse
  data                  nas.data.SequentialDigits, Digits, DigitPairs,
                        BreastCancer, Npz, TrainTest, Vision
  retrain               trainer, optimizer, scheduler, space, task of retraining
'nas help CLASS' prints the options of a class: nas help nas.tau.Exponential
--print_config prints the resolved configuration and ends."""

PARSER = CommandParser("search", __doc__, epilog=KEYS, overrides=True)
START = PARSER.add_mutually_exclusive_group(required=True)
START.add_argument("--config", **CONFIG)
START.add_argument("--resume", type=Path, metavar="DIR", help="run folder of a search to continue")
PARSER.add_argument("--out", type=Path, metavar="DIR", help="new run folder (runs/CONFIG_NAME/NUMBER)")
PARSER.add_argument("--force", **FORCE)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Searches or resumes; returns the summary, the run folder and the next commands."""
    if options.resume is not None:
        PARSER.refuse(options, "--resume takes everything from its folder", "out", "overrides")
        from nas.runs.stages.search import resume

        folder = resume(options.resume, options.trust_module, force=options.force)
    else:
        PARSER.refuse(options, "--force goes with --resume", "force")
        source = config_source(options)
        from nas.runs.stages.search import search

        folder = search(source, options.out)
    words = f"--run {folder.quoted}{trust_words(options.trust_module)}"
    summary = folder.read_summary()
    commands = [f"nas retrain {words}", f"nas evaluate {words}"]
    if folder.is_own_code:
        commands = [f"nas evaluate {words}", f"nas export {words}"]
    elif summary.get("runner_up") is not None:
        trust = trust_words(options.trust_module)
        name = f"{folder.quoted}/runner_up.json --config {folder.quoted}/config.yaml{trust}"
        commands.append(f"nas retrain --genotype {name}  # the second choice")
    return {"run": folder.shown, **summary, "next": commands}


def show(result: dict[str, Any]) -> None:
    """Prints the choices as a table, the figures, and the next commands."""
    from rich.console import Console
    from rich.table import Table

    table = Table("choice", "chosen", "probability", title="architecture")
    for name, label in result["genotype"].items():
        row = result["probabilities"].get(name, {})
        labels = labels_of(label)
        table.add_row(name, ", ".join(labels), ", ".join(f"{row.get(item, float('nan')):.3f}" for item in labels))
    Console(highlight=False).print(table)
    metric, cost, seconds = result["metric"], result["cost"], result.get("derive_seconds")
    deriving = "" if seconds is None else f", of which deriving {seconds:.1f} s"
    print_pairs(
        {
            f"{metric['name']} (inherited weights, arch split)": f"{metric['value']:.4f}",
            "parameters": cost["params"],
            "MACs": cost.get("macs"),
            "architectures": result["num_architectures"],
            "search time": f"{result['search_seconds']:.1f} s" + deriving,
            **outcome_lines(result),
            "run folder": result["run"],
        }
    )
    print("next:", *result["next"], sep="\n  ")
