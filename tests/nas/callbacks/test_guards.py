"""Guards: what they notice in a search whose alpha is driven by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from nas.callbacks import Guards
from nas.callbacks.guards import GuardOptions
from nas.io import checkpoint_io
from nas.runs.stages import search as search_run

SPACE = """
from functools import partial

from torch import nn

import nas


class Skips(nas.SearchSpace):
    '''Four choices of a layer or nothing.'''

    def network(self, stage="search"):
        ops = {"conv": partial(nn.Conv1d, 1, 1, 3, padding=1), "identity": nn.Identity}
        choices = [nas.choice(name, {k: make() for k, make in ops.items()}) for name in ("one", "two", "three", "four")]
        return nn.Sequential(*choices, nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def run(run_cli, config, monkeypatch):
    """A search of a space with skips, in which alpha is set after each epoch."""

    def search(alphas, out="run", **changes):
        Path("skips_space.py").write_text(SPACE)
        path = config(
            {
                "model.space": {"class_path": "skips_space.Skips"},
                "trainer.max_epochs": len(alphas),
                "model.warmup_epochs": 0,
                "trainer.num_images": 0,
                **changes,
            }
        )
        epochs = iter(alphas)
        original = Guards.on_train_epoch_end

        def driven(self, trainer, module):
            with torch.no_grad():
                module.supernet.alpha.copy_(torch.tensor(alphas[trainer.current_epoch], dtype=torch.float32))
            next(epochs)
            original(self, trainer, module)

        monkeypatch.setattr(Guards, "on_train_epoch_end", driven)
        answer = run_cli("search", "--config", path, "--out", out, "--trust-module", "skips_space", "--json")
        monkeypatch.setattr(Guards, "on_train_epoch_end", original)
        return answer

    return search


EVEN = [[0.0, 0.0]] * 4
CONVS = [[9.0, 0.0]] * 4
SKIPS = [[0.0, 9.0]] * 4


def every(label):
    return dict.fromkeys(("one", "two", "three", "four"), label)


def test_entropy_that_falls_in_the_first_third_is_warned_of_once(run, recwarn):
    with pytest.warns(UserWarning, match=r"the entropy of alpha has fallen to 0\.2% of its maximum") as caught:
        answer = run([EVEN, CONVS, CONVS, CONVS, CONVS, CONVS], **{"model.guards": {"early_entropy": 0.1}})
    assert len(caught) == 1 and answer.code == 0
    assert answer.result["collapsed_at"] == 2 * 6  # two epochs of 6 batches


def test_entropy_that_falls_later_is_not(run):
    assert run([EVEN, EVEN, CONVS, CONVS, CONVS, CONVS]).result["collapsed_at"] is None


@pytest.mark.parametrize(("stable_epochs", "expected"), [(2, 5), (3, 6), (0, None)])
def test_a_search_that_has_decided_stops(run, stable_epochs, expected):
    """Decided from the third epoch on (index 2): stable for n epochs at the end of epoch 3 + n."""
    tilted = [[0.0, 0.1]] * 4
    alphas = [tilted, tilted, CONVS, CONVS, CONVS, CONVS, CONVS, CONVS]
    result = run(alphas, **{"model.guards": {"stable_epochs": stable_epochs, "early_entropy": 0.0}}).result
    assert result["stopped_at"] == (None if expected is None else 6 * expected)
    rows = Path("run/metrics.csv").read_text().splitlines()
    assert len(rows) - 1 == (expected or len(alphas))


def test_a_stable_architecture_with_entropy_left_goes_on(run):
    alphas = [[[1.0, 0.0]] * 4] * 6
    assert run(alphas, **{"model.guards": {"stable_epochs": 2}}).result["stopped_at"] is None


def test_too_many_skips_are_exchanged_and_said(run):
    mostly = [[0.0, 9.0], [0.0, 3.0], [0.0, 9.0], [0.0, 9.0]]  # the second choice is the least certain one
    with pytest.warns(
        UserWarning, match="the derived architecture has 100% skip connections.*another architecture replaces it"
    ):
        answer = run([EVEN, EVEN, EVEN, mostly], **{"model.guards": {"max_skip_share": 0.75}})
    assert answer.result["genotype"] == every("identity") | {"two": "conv"}
    assert answer.result["replaced"] == every("identity")
    assert json.loads(Path("run/genotype.json").read_text())["provenance"]["replaced"] == every("identity")
    free = run([EVEN, EVEN, EVEN, mostly], "free")  # off by default
    assert free.result["genotype"] == every("identity") and free.result["replaced"] is None


def test_an_earlier_architecture_that_does_better_is_reported(run, monkeypatch):
    """The judge of the end is the arch split with inherited weights; both architectures are there, and the better one is named."""
    results = {}
    for name, alphas in {"a": [CONVS, SKIPS], "b": [SKIPS, CONVS]}.items():
        options = {"max_skip_share": 1.0, "early_entropy": 0.0}
        results[name] = run(alphas, name, **{"model.guards": options}).result["best_so_far"]
    assert [result is None for result in results.values()].count(True) == 1
    better = next(result for result in results.values() if result is not None)
    assert better in (every("conv"), every("identity"))


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_guards_judge_at_every_precision(run, precision, recwarn):
    answer = run([CONVS, SKIPS], **{"trainer.precision": precision, "model.guards": {"early_entropy": 0.0}})
    assert answer.code == 0, answer.err
    assert not [w for w in recwarn if "judged" in str(w.message)]
    assert len(checkpoint_io.load(Path("run/checkpoints/last.ckpt"))["callbacks"]["Guards"]["seen"]) == 2


def test_a_guard_that_cannot_judge_does_not_stop_the_search(run, monkeypatch):
    def broken(*args):
        raise RuntimeError("no such thing")

    monkeypatch.setattr("nas.runs.judging.SearchJudge.score", broken)
    with pytest.warns(UserWarning, match="the current architecture cannot be scored: .*no such thing"):
        assert run([CONVS, CONVS], **{"model.guards": {"early_entropy": 0.0}}).code == 0


def test_what_guards_have_seen_survives_a_checkpoint():
    guards = Guards(GuardOptions())
    guards.seen.append({"choices": {"a": "b"}, "batch": 3, "score": -1.0})
    guards.stable, guards.stopped_at = 4, 12
    again = Guards(GuardOptions())
    again.load_state_dict(json.loads(json.dumps(guards.state_dict(), allow_nan=True)))
    assert again.state_dict() == guards.state_dict()
    trainer = SimpleNamespace(should_stop=False)
    again.on_train_start(trainer, None)
    assert trainer.should_stop


def test_a_stopped_search_that_was_killed_before_its_end_is_not_trained_further(run, run_cli, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args):
        raise Killed

    original = search_run.derive_and_score
    monkeypatch.setattr(search_run, "derive_and_score", killed)
    options = {"model.guards": {"stable_epochs": 1, "early_entropy": 0.0}}
    with pytest.raises(Killed):
        run([CONVS] * 6, **options)
    before = Path("run/metrics.csv").read_text()
    assert len(before.splitlines()) == 1 + 2
    monkeypatch.setattr(search_run, "derive_and_score", original)
    answer = run_cli("search", "--resume", "run", "--trust-module", "skips_space", "--json")
    assert answer.code == 0 and answer.result["stopped_at"] == 12
    assert Path("run/metrics.csv").read_text() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_skip_share": 1.5}, "max_skip_share must lie between 0 and 1"), ({"stable_epochs": -1}, "stable_epochs")],
)
def test_bad_options(run_cli, config, options, message):
    answer = run_cli("search", "--config", config({"model.guards": options}))
    assert answer.code == 2 and message in answer.complaint


def test_defaults_are_on(searched):
    options = yaml.safe_load((searched / "config.yaml").read_text())["model"]["guards"]
    assert options == {"max_skip_share": 1.0, "stable_epochs": 20, "settled_entropy": 0.01, "early_entropy": 0.1}
