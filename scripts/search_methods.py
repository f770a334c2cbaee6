"""The search methods that scripts/search_quality.py compares: changes to configs/dilation_digits.yaml."""

from __future__ import annotations

from typing import Any

RANKED: dict[str, Any] = {"class_path": "nas.derive.Ranked", "init_args": {"num": 128, "refit_head": True}}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, "betas": [0.5, 0.999], "weight_decay": 0.0}}
RANKING: dict[str, Any] = {  # configs/dilation_ranked_digits.yaml
    "trainer.max_epochs": 144,
    "model.tau": {"class_path": "nas.tau.Exponential", "init_args": {"start": 5.0, "end": 0.2, "delay": 0.0}},
    "model.alpha": None,
    "model.bilevel": {"class_path": "nas.bilevel.FirstOrder"},
    "model.arch_optimizer": ADAM,
    "model.arch_schedule": "constant",
    "model.warmup_epochs": 144,
    "model.warmup_paths": {"class_path": "nas.paths.Fair"},
    "model.derive": RANKED,
}
ANNEALED = {**RANKING, "model.warmup_epochs": 120}


def ranked(**changes: Any) -> dict[str, Any]:
    """The ranking with other arguments of Ranked."""
    return {**RANKING, "model.derive": {**RANKED, "init_args": {**RANKED["init_args"], **changes}}}


def constant(tau: float) -> dict[str, Any]:
    """The default at one temperature."""
    return {"model.tau": {"class_path": "nas.tau.Constant", "init_args": {"value": tau}}}


METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "alpha-at-rest": {"model.arch_optimizer.init_args.lr": 0.0},
    "weights-rest": {"model.warmup_epochs": 132, "model.tau.init_args.delay": 0.805},
    "autoregressive": {"model.alpha": {"class_path": "nas.alpha.Autoregressive"}},
    "factorised": {"model.alpha": {"class_path": "nas.alpha.Factorised"}},
    "without-entropy": {"model.bilevel.init_args.entropy": 0.0},
    "tau-0.25": constant(0.25),
    "tau-1": constant(1.0),
    "tau-5": constant(5.0),
    "uniform-draws": constant(100.0),
    "straight-through": {  # fair paths train the weights first
        "model.relaxation": {"class_path": "nas.relaxations.GumbelSoftmax", "init_args": {"hard": True}},
        "model.alpha": {"class_path": "nas.alpha.Factorised"},
        "model.bilevel": {"class_path": "nas.bilevel.FirstOrder"},
        "model.tau": {"class_path": "nas.tau.Exponential", "init_args": {"start": 5.0, "end": 0.2, "delay": 0.805}},
        "model.arch_optimizer": ADAM,
        "model.arch_schedule": "constant",
        "model.warmup_epochs": 132,
        "model.warmup_paths": {"class_path": "nas.paths.Fair"},
        "model.num_paths": 1,
    },
    "ranked": RANKING,
    "fitted-energies": ranked(num=100),
    "uniform": {**RANKING, "model.warmup_paths": {"class_path": "nas.paths.Uniform"}},
    "unrefitted": {**RANKING, "model.derive": {"class_path": "nas.derive.Ranked"}},
    "unsmoothed": ranked(smooth=False),
    "evolution": {
        **RANKING,
        "model.derive": {"class_path": "nas.derive.Evolution", "init_args": {"num": 64, "refit_head": True}},
    },
    "annealed-ranked": ANNEALED,
    "annealed-ranked-32": {**ranked(num=32), "model.warmup_epochs": 120},
    "annealed-argmax": {**ANNEALED, "model.derive": {"class_path": "nas.derive.Argmax"}},
    "annealed-fine-tuned": {
        **ANNEALED,
        "model.derive": {"class_path": "nas.derive.FineTuned", "init_args": {"num": 8}},
    },
    "annealed-perturbation": {**ANNEALED, "model.derive": {"class_path": "nas.derive.Perturbation"}},
    "straight-through-argmax": {  # configs/dilation_gumbel_digits.yaml
        **RANKING,
        "model.space.init_args.candidate_norms": False,
        "model.relaxation": {"class_path": "nas.relaxations.GumbelSoftmax", "init_args": {"hard": True}},
        "trainer.max_epochs": 120,
        "model.warmup_epochs": 20,
        "model.warmup_paths": None,
        "model.num_paths": 1,
        "model.weight_optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.01}},
        "model.weight_schedule": "constant",
        "model.arch_optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.03, "betas": [0.5, 0.999]}},
        "model.derive": {"class_path": "nas.derive.Argmax"},
        "data.batch_size": 64,
    },
}
