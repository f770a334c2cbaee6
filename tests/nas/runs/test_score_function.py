"""Searches in which alpha learns from paths that are scored forward-only."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

import nas
from nas.alpha import joint
from nas.costs.functions import num_macs
from nas.costs.limits import Limit
from nas.costs.table import CostTable, Term
from nas.io import checkpoint_io
from nas.io.errors import UsageError
from nas.io.json_file import write_json
from nas.runs.decided import read_decided
from nas.training.lr_schedules import rate_share
from nas.training.search_module import SearchModule

CHANGES = {
    "model.space.init_args": {"num_layers": 2, "channels": 4, "dilations": [1, 8], "candidate_norms": True},
    "model.relaxation": {"class_path": "nas.relaxations.SampledPath"},
    "model.tau": {"class_path": "nas.tau.Exponential", "init_args": {"delay": 0.4}},
    "model.alpha": {"class_path": "nas.alpha.Autoregressive"},
    "model.bilevel": {"class_path": "nas.bilevel.ScoreFunction", "init_args": {"num_paths": 3}},
    "model.warmup_epochs": 2,
    "trainer.max_epochs": 5,
}


@pytest.fixture
def path(config):
    return config(CHANGES)


def last(run):
    return checkpoint_io.load(Path(run) / "checkpoints" / "last.ckpt")


def noted(monkeypatch):
    """The steps of the searches that follow: epoch, whether weights and alpha moved, and the number of scored architectures."""
    steps, step = [], SearchModule.training_step

    def noting(self, *args):
        before = [p.detach().clone() for p in (*self.supernet.network.parameters(), *self.supernet.arch_parameters())]
        step(self, *args)
        after = [*self.supernet.network.parameters(), *self.supernet.arch_parameters()]
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        steps.append((self.current_epoch, any(moved[:-2]), any(moved[-2:]), len(self.scores.found)))

    monkeypatch.setattr(SearchModule, "training_step", noting)
    return steps


def test_weights_train_first_and_alpha_afterwards(path, monkeypatch):
    seen = noted(monkeypatch)
    run = nas.search(path, out="run", model={"weight_schedule": "one_cycle"})
    assert all((weights, alpha) == (epoch < 2, False) for epoch, weights, alpha, _ in seen if epoch < 2)
    assert not any(weights for epoch, weights, _, _ in seen if epoch >= 2)
    assert any(alpha for epoch, _, alpha, _ in seen if epoch >= 2)
    # the schedule of the weights spans the 12 batches of the warm-up
    rate = last("run")["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(0.01 * rate_share("one_cycle", 11 / 12))
    distribution = run.summary["distribution"]
    assert distribution["exact"] and len(distribution["most_probable"]) == 4
    assert sum(entry["probability"] for entry in distribution["most_probable"]) == pytest.approx(1, abs=1e-5)
    assert distribution["most_probable"][0]["choices"] == run.summary["genotype"] == dict(run.genotype.choices)


def test_alpha_and_weights_move_together_until_the_weights_rest(path, monkeypatch):
    """Between warm-up and `weight_epochs`, a step moves both; afterwards alpha alone. The distribution is read at the last tau."""
    seen = noted(monkeypatch)
    model = {"bilevel": {"init_args": {"weight_epochs": 4}}, "alpha": "nas.alpha.Pairwise"}
    run = nas.search(path, out="run", model={**model, "warmup_paths": "nas.paths.Stratified"})
    assert {(weights, alpha, found) for epoch, weights, alpha, found in seen if epoch < 2} == {(True, False, 0)}
    assert {(weights, alpha, found) for epoch, weights, alpha, found in seen if 2 <= epoch < 4} == {(True, True, 0)}
    assert {(weights, alpha, found > 0) for epoch, weights, alpha, found in seen if epoch >= 4} == {(False, True, True)}
    state = last("run")["state_dict"]
    assert float(state["supernet.distribution.temperature"]) == pytest.approx(0.2)  # the end of nas.tau.Exponential
    rows = state["supernet.alpha"] / 0.2
    pairs = state["supernet.distribution.pairs"][1, 0] / 0.2
    expected = torch.softmax((rows[0][:, None] + rows[1][None] + pairs).flatten(), 0)
    listed = [entry["probability"] for entry in run.summary["distribution"]["most_probable"]]
    assert listed == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-5)
    assert run.summary["distribution"]["entropy"] == pytest.approx(float(-(expected * expected.log()).sum()), abs=1e-5)


def test_what_decided_is_written_down(path):
    run = nas.search(path, out="run")
    content = json.loads(Path("run/distribution.json").read_text())
    best = run.summary["distribution"]["most_probable"]
    assert [entry["choices"] for entry in content["moments"][-1]["most_probable"]] == [e["choices"] for e in best]
    assert [moment["batch"] for moment in content["moments"]] == [18, 24, 30]  # after each epoch that moves alpha
    assert {json.dumps(e["choices"]): e["loss"] for e in content["scored"]} == {
        c: loss for c, loss, _ in last("run")["scores"]
    }
    space, (inputs, _) = run.experiment.model["space"], run.experiment.data.example()
    for entry in content["scored"]:  # counted on a network of the architecture alone
        with nas.architecture(entry["choices"]):
            network = space.network("retrain")
        assert entry["macs"] == num_macs(network, (inputs[:1],))
    assert content["chosen"] == best[0]["choices"] and content["runner_up"] == best[1]["choices"]
    assert dict(nas.Genotype.load("run/runner_up.json").choices) == best[1]["choices"] == run.summary["runner_up"]
    assert run.summary["stability"]["num_halves"] in (0, 4)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("moments"),
        lambda content: content.update(moments=[]),
        lambda content: content.update(scored=[1]),
        lambda content: content["scored"][0].update(loss="low"),
        lambda content: content["moments"][0]["most_probable"][0].update(choices=None),
        lambda content: content.update(chosen=[]),
        lambda content: content.update(runner_up="none"),
    ],
)
def test_a_damaged_distribution_is_refused_in_one_line(tmp_path, damage):
    entry = {"choices": {"a": "x"}, "probability": 0.5, "loss": 1.0, "macs": None}
    content = {
        "moments": [{"batch": 1, "most_probable": [entry]}],
        "scored": [dict(entry)],
        "chosen": {"a": "x"},
        "runner_up": None,
    }
    write_json(tmp_path / "distribution.json", content)
    assert read_decided(tmp_path) == content
    damage(content)
    write_json(tmp_path / "distribution.json", content)
    with pytest.raises(UsageError, match=r"distribution\.json: damaged$"):
        read_decided(tmp_path)


def test_a_path_is_scored_as_its_derived_network_and_once(path, monkeypatch):
    nas.search(path, out="run")
    scores = last("run")["scores"]
    known = [choices for choices, _, _ in scores]
    assert len(set(known)) == len(known) <= 4
    judge = nas.derive.inherited.InheritedScore(nas.Run("run").searched())
    for choices, loss, _ in scores:
        assert loss == pytest.approx(-judge(json.loads(choices)), rel=1e-5)  # the weights rest


def test_a_stopped_search_resumes_bit_for_bit(path, run_cli, monkeypatch):
    assert run_cli("search", "--config", path, "--out", "whole").code == 0
    step, done = SearchModule.training_step, []

    def stopping(self, *args):
        if self.num_batches_done == 20 and not done:
            done.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(SearchModule, "training_step", stopping)
    assert run_cli("search", "--config", path, "--out", "cut").code == 143 and done
    assert 0 < len(last("cut")["scores"])
    assert run_cli("search", "--resume", "cut").code == 0
    for name in ("distribution.json", "runner_up.json"):
        assert Path("whole", name).read_text() == Path("cut", name).read_text()
    for name in ("metrics.csv", "genotype.json"):
        one, other = (Path(folder, name).read_text() for folder in ("whole", "cut"))
        if name == "genotype.json":
            one, other = (json.loads(text)["choices"] for text in (one, other))
        assert one == other
    assert last("cut")["scores"] == last("whole")["scores"]
    for key, value in last("whole")["state_dict"].items():
        assert torch.equal(value, last("cut")["state_dict"][key]), key


def test_limits_are_kept_by_the_mode_of_dependent_choices(path, config):
    run = nas.search(path, out="run", trainer={"max_epochs": 3})
    searched = run.searched()
    best = run.summary["distribution"]["most_probable"]
    table = CostTable("c", 0.0, (Term({k: frozenset({v}) for k, v in best[0]["choices"].items()}, 1.0),))
    limited = nas.derive.Argmax().genotype(
        nas.derive.Searched(
            supernet=searched.supernet,
            relaxation=searched.relaxation,
            space=searched.space,
            limits=[Limit(table, 0.5)],  # all architectures but the most probable one
        )
    )
    assert dict(limited.choices) == best[1]["choices"]


def test_pairs_of_a_space_too_large_to_enumerate_are_swept_or_refused(path, monkeypatch):
    monkeypatch.setattr(joint, "MAX_JOINT", 3)  # the space has 4 paths
    with pytest.raises(UsageError, match="no exact sums over more than 20,000 paths: set bilevel"):
        nas.search(
            path, out="run", model={"alpha": "nas.alpha.Pairwise"}
        )  # without paths of the warm-up, the relaxation draws them
    assert not Path("run").exists()
    run = nas.search(path, out="run", model={"alpha": "nas.alpha.Pairwise", "warmup_paths": "nas.paths.Fair"})
    distribution = run.summary["distribution"]
    assert not distribution["exact"] and 0 < distribution["entropy"] <= distribution["uniform_entropy"] + 0.1
    assert distribution["most_probable"][0]["choices"] == dict(run.genotype.choices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.bilevel.init_args.num_paths": 1}, "num_paths of at least 2, got 1"),
        ({"model.warmup_epochs": 0}, "set warmup_epochs above 0"),
        ({"model.average_decay": 0.9}, "average_decay to null"),
        (
            {"model.bilevel": "nas.bilevel.Joint", "model.warmup_paths": "nas.paths.Stratified"},
            "Stratified leaves none; use nas",
        ),
        ({"model.bilevel.init_args.entropy": -1.0}, "entropy must be at least 0, got -1.0"),
        ({"model.bilevel.init_args.weight_epochs": 1}, "weight_epochs to at least warmup_epochs"),
        ({"model.bilevel.init_args.num_batches": 0}, "num_batches must be at least 1"),
        ({"model.relaxation": "nas.relaxations.TwoPath"}, "TwoPath changes rows of alpha"),
        (
            {"model.regularizers": [{"class_path": "nas.regularizers.AlphaDecay", "init_args": {"weight": 1.0}}]},
            "AlphaDecay reads rows of alpha",
        ),
        ({"model.tau.init_args.delay": 1.0}, r"delay must lie in \[0, 1\)"),
        ({"model.alpha": "nas.tau.Constant"}, "alpha"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_folder(path, changes, message):
    with pytest.raises(UsageError, match=message):
        nas.search(path, out="run", **changes)
    assert not Path("run").exists()


def test_an_alpha_of_another_kind_is_not_resumed(path, run_cli):
    assert run_cli("search", "--config", path, "--out", "run", "--trainer.max_epochs", "3").code == 0
    for name in ("summary.json", "genotype.json", "manifest.json"):
        Path("run", name).unlink()
    text = Path("run/config.yaml").read_text()
    Path("run/config.yaml").write_text(text.replace("nas.alpha.Autoregressive", "nas.alpha.Factorised"))
    answer = run_cli("search", "--resume", "run")
    assert answer.code in (1, 2) and 'alpha.class_path was "nas.alpha.Autoregressive"' in answer.complaint
