"""The folder of a launch with made-up results, without any search."""

import json
import math

import numpy as np

from nas.io.files import write_atomic
from nas.io.json_file import write_json
from nas.launch.launch import DOCUMENT, LAUNCH
from nas.launch.trials import Plan, make_trials

CHOICES = {f"layer{i}": [f"dilation_{d}" for d in (1, 2, 4, 8)] for i in range(3)}


def write_launch(folder, methods, seeds, *, num_epochs=6, unfinished=()):
    """Writes a launch of `methods`, name -> key -> value; returns plan, trials and the test accuracy of each finished trial."""
    trials = make_trials(seeds, {}, methods)
    plan, source, tests = Plan(folder, (), True), np.random.default_rng(0), {}
    about = {"retrain": True, "num_baseline": 0, "trials": [trial._asdict() for trial in trials]}
    folder.mkdir(parents=True)
    write_atomic(plan.config, "seed_everything: 0\n")
    DOCUMENT.save(folder / LAUNCH, about)
    for trial in trials:
        run = plan.run(trial)
        run.checkpoints.mkdir(parents=True)
        write_atomic(run.config, "seed_everything: 0\n")
        lines = ["step,epoch,weight/loss,weight/accuracy,arch/loss,arch/accuracy,search/tau,search/entropy"]
        for epoch in range(num_epochs):
            accuracy = 1 - math.exp(-(epoch + 1) / 3) * source.uniform(0.8, 1)
            cells = [
                epoch * 10 + 9,
                epoch,
                1 - accuracy,
                accuracy,
                *(("", "") if epoch == 0 else (1.1 - accuracy, accuracy - 0.1)),
            ]
            lines.append(",".join(map(str, [*cells, 5 * 0.5**epoch, 1.6 * 0.8**epoch])))
        write_atomic(run.metrics_csv, "\n".join(lines) + "\n")
        if trial.name in unfinished:
            continue
        tests[trial.name] = float(source.uniform(0.9, 0.99))
        genotype = {name: str(source.choice(labels)) for name, labels in CHOICES.items()}
        metric = {"name": "accuracy", "value": tests[trial.name] - 0.1, "split": "arch"}
        cost = {"params": int(source.integers(1000, 2000)), "macs": int(source.integers(10_000, 20_000))}
        seconds = float(source.uniform(20, 30))
        write_json(
            run.summary,
            {"stage": "search", "genotype": genotype, "metric": metric, "search_seconds": seconds, "cost": cost},
        )
        write_json(run.manifest, {"versions": {"torch": "2"}})
        again = run.retrain
        again.path.mkdir()
        metric = {"name": "accuracy", "value": tests[trial.name], "split": "test"}
        about = {"stage": "retrain", "genotype": genotype, "metric": metric, **cost, "train_seconds": seconds / 5}
        write_json(again.summary, about)
        write_json(again.manifest, {"versions": {"torch": "2"}})
    return plan, trials, tests


def results(folder):
    """The test accuracies in the folder, read with json alone: method -> seed -> value."""
    found = {}
    for row in json.loads((folder / LAUNCH).read_text())["trials"]:
        path = folder / "trials" / row["name"] / "retrain/summary.json"
        if path.exists():
            found.setdefault(row["method"], {})[row["seed"]] = json.loads(path.read_text())["metric"]["value"]
    return found
