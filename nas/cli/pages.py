"""The help pages: static, so that they answer at once."""

from __future__ import annotations

_COMMON = """
  --json               last line of standard output: one JSON object
  --debug              traceback on errors
  -h, --help           this page"""

_TRUST = """
  --trust-module NAME  let the configuration name classes of this module of yours
                       (looked up in the working directory too); may be repeated"""

_KEYS = """
Sections of a configuration, and the commonest keys (as --KEY VALUE they override the file):
  seed_everything        seed of weights, noise, data order (0)
  trainer.max_epochs     epochs; also accelerator, devices, num_nodes, precision, num_threads,
                         checkpoint_seconds, checkpoint_minutes
  model.space            class_path and init_args of the search space
  model.relaxation       nas.relaxations.GumbelSoftmax | GumbelRao | ReinMax | SampledPath |
                         TwoPath | Dirichlet | Softmax | BinaryConcrete
  model.tau              nas.tau.Exponential | Linear | Cosine | Constant | Reheating | LearnedTau
  model.bilevel          nas.bilevel.FirstOrder | Unrolled | Joint
  model.regularizers     list of nas.regularizers.Entropy | Sparsity | AlphaDecay | BetaDecay | ...
  model.task             nas.tasks.Classification | Regression | Segmentation
  model.weight_optimizer, model.arch_optimizer
                         classes of torch.optim
  model.warmup_epochs    epochs before alpha moves
  model.cost             limits: {macs: {max: 4.0e7}, latency_ms: {max: 3}}; also params, activations,
                         or the dotted path of a function of yours
  model.warmup_paths     nas.paths.Fair | Uniform: what is trained meanwhile; null: what the relaxation draws
  model.num_paths        parts of each batch with a draw of their own (1); num_micro_batches: run one after the other
  model.derive           nas.derive.Argmax | Ranked | Evolution | FineTuned | Perturbation
  model.guards           max_skip_share, stable_epochs, settled_entropy, early_entropy: guards against collapse
  data                   nas.data.SequentialDigits | Digits | DigitPairs | BreastCancer | Npz | Vision
  retrain                trainer, optimizer, scheduler, space, task of the retraining
'nas help CLASS' prints a class's options, for example: nas help nas.tau.Exponential
--print_config shows the resolved configuration."""

COMMANDS = {
    "search": f"""usage: nas search --config FILE [--KEY VALUE]... [--out DIR]
       nas search --resume DIR [--force]

Searches a space, derives the architecture and evaluates it with inherited weights.

  --config FILE        YAML; may be repeated, later files win
  --out DIR            run folder to make (default: runs/<config name>/<n>)
  --resume DIR         go on exactly where a search stopped; of a finished one, print its summary
  --force              go on though configuration, versions or your modules are not those it was begun with{_TRUST}{_COMMON}
{_KEYS}""",
    "derive": f"""usage: nas derive --run DIR [--strategy CLASS] [--out FILE]

Derives again from the last checkpoint of a finished or running search; the run folder is only read.

  --run DIR            run folder of a search
  --strategy CLASS     class path of a derive strategy (default: the configuration's)
  --out FILE           write the genotype here{_TRUST}{_COMMON}""",
    "retrain": f"""usage: nas retrain --run DIR [--seed N] [--inherit] [--out DIR]
       nas retrain --genotype FILE --config FILE [--KEY VALUE]... [--seed N] [--out DIR]

Trains the derived network on all training data and tests it once.

  --run DIR            run folder of a finished search; the result goes to its retrain folder
  --genotype FILE      a genotype.json, found or written by hand, or a text in the space's published notation
  --config FILE        YAML of the genotype's space; may be repeated
  --seed N             seed of weights and data order (default: seed_everything)
  --inherit            start from the weights found by the search
  --force              go on with an unfinished one though versions or your modules are not those it was begun with
  --out DIR            folder to make{_TRUST}{_COMMON}""",
    "baseline": f"""usage: nas baseline --config FILE --num N [--KEY VALUE]... [--out DIR]

Random search: N random architectures of the space, each trained as 'nas retrain' does, once on three quarters of the training set,
judged on the rest, and once on all of it, tested. Prints mean, std, and the one that is best in validation. The same command goes on
where it stopped.

  --config FILE        YAML; may be repeated, later files win
  --num N              number of architectures
  --out DIR            folder (default: runs/<config name>_baseline){_TRUST}{_COMMON}""",
    "launch": f"""usage: nas launch --config FILE --seeds A-B [--set KEY=V,W]... [--KEY VALUE]... [--retrain] [--baseline N] [--out DIR]
       nas launch --resume DIR

Many searches: every combination of the settings with every seed, each a run of its own under DIR/trials, by the command 'nas search'.
A search that fails or is killed goes on from its checkpoint. Prints mean ± std over the seeds of every setting.

  --config FILE        YAML; may be repeated, later files win
  --seeds A-B          values of seed_everything: 0-9, or 0,3,5
  --set KEY=V,W        values of a key, for example model.tau=nas.tau.Linear,nas.tau.Cosine; may be repeated
  --engine local       processes on this machine; or ray: trials of Ray Tune (gumbel-nas[ray]); or slurm: jobs, through
                       submitit (gumbel-nas[slurm])
  --job KEY=V          what each gets; with slurm for example timeout_min=240, slurm_partition=gpu, and cluster=local runs
                       the jobs on this machine; with ray num_cpus=1, num_gpus=1 (if there are any); may be repeated
  --address HOST:PORT  with ray: the cluster, which shares this file system (default: one of this machine alone, on loopback)
  --asha               with ray: stop searches whose loss is high early, by successive halving
  --num-parallel N     searches at once (1; with ray: as many as there are CPUs and GPUs for)
  --max-failures N     how often a search may fail before it is given up (3)
  --retrain            retrain and test what is found
  --baseline N         also train N random architectures, for comparison
  --out DIR            folder to make (default: runs/<config name>_launch)
  --resume DIR         go on; finished searches are not run again{_TRUST}{_COMMON}""",
    "evaluate": f"""usage: nas evaluate --run DIR

Test metrics of the retrained (else the derived) network, with parameters, MACs and latency of one sample.

  --run DIR            run folder{_TRUST}{_COMMON}""",
    "profile": f"""usage: nas profile --config FILE [--KEY VALUE]... [--genotype FILE]

Before a search: what each candidate adds to each cost, the number of architectures, the range of costs, a forecast of the memory
of a step, and whether the targets of model.cost can be met. Latencies are measured on this device and kept for searches.

  --config FILE        YAML; may be repeated, later files win
  --genotype FILE      the costs of this architecture alone{_TRUST}{_COMMON}""",
    "export": f"""usage: nas export --run DIR [--formats A,B,...] [--fold-bn] [--out DIR]
       nas export --genotype FILE --config FILE [--KEY VALUE]... --out DIR [--formats A,B,...] [--fold-bn]
       nas export --verify DIR

Writes the retrained (else the derived) network of a run into files that need no gumbel-nas, and proves them: each is run in a fresh
interpreter that cannot import gumbel-nas, and its outputs are compared with the network's. A format that cannot hold the
network, or computes something else, is left out and named with the reason; if none is left, nothing is kept.

  --run DIR            run folder of a search or a retraining
  --genotype FILE      a genotype.json or a text in the space's notation: the network with weights drawn from the seed
  --config FILE        YAML of the genotype's space; may be repeated
  --formats A,B        of genotype, python, safetensors, onnx, pt2 (default: all but onnx, which needs gumbel-nas[onnx])
                         genotype     genotype.json
                         python       network.py, which imports torch alone, and model.safetensors; network.load()
                         safetensors  model.safetensors and config.json, for nas.load(DIR)
                         onnx         model.onnx, any batch size
                         pt2          model.pt2 of torch.export, any batch size
  --fold-bn            make batch norms part of the layers before them
  --out DIR            folder to make (default: export inside the run folder)
  --verify DIR         check an export folder; this runs its network.py and loads its model.pt2, so trust it first{_TRUST}{_COMMON}""",
    "dashboard": f"""usage: nas dashboard [DIR] [--port N]

TensorBoard on 127.0.0.1 for all runs under DIR (default: runs), with the settings that their pages need. Prints the address.

  --port N             where to listen (default: a free port){_COMMON}""",
    "report": f"""usage: nas report --run DIR [--format html|md] [--out FILE]

The report of a finished run: figures, architecture, curves, configuration, provenance, and the commands that repeat it.

  --run DIR            run folder of a search or a retraining
  --format F           html: one file with pictures, which loads nothing from elsewhere (default); md: tables alone
  --out FILE           file to write (default: report.html or report.md in the run folder){_TRUST}{_COMMON}""",
    "doctor": f"""usage: nas doctor

Versions, devices, and which backend the mixing operation uses.
{_COMMON}""",
    "help": f"""usage: nas help CLASS

Signature and documentation of a class that a configuration can name, for example nas.tau.Exponential.
{_TRUST}{_COMMON}""",
}

_SUMMARIES = {
    "search": "search a space, derive and evaluate the architecture",
    "profile": "what a search will cost, before it runs",
    "derive": "derive again from a finished or running search",
    "retrain": "train the derived network, test it once",
    "baseline": "random architectures, same training",
    "launch": "many searches: seeds and settings, mean ± std",
    "evaluate": "test metrics and cost of what a run found",
    "export": "files that need no gumbel-nas, proven equal",
    "dashboard": "TensorBoard for all runs",
    "report": "one file that tells of a run",
    "doctor": "versions, devices, backends",
    "help": "options of a class",
}


def overview() -> str:
    """The page of ``nas --help``."""
    rows = "\n".join(f"  {name:<10} {text}" for name, text in _SUMMARIES.items())
    return f"""usage: nas COMMAND [OPTION]...

Neural architecture search for PyTorch.

{rows}

'nas COMMAND --help' says more; 'nas --version' prints the version."""


def page(command: str) -> str:
    """The page of one command."""
    return COMMANDS[command]
