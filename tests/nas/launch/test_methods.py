"""Named methods: what the file may say, and the trials that it makes."""

import json

import pytest

from nas.io.errors import UsageError
from nas.launch.methods import read_methods
from nas.launch.trials import Trial, make_trials, with_methods

FILE = """
own: {}
darts: {model.relaxation: nas.relaxations.Softmax, trainer: {max_epochs: 3}}
gdas:
  model: {relaxation: {class_path: nas.relaxations.SampledPath}, guards: {max_skip_share: 0.5}}
"""


def test_methods_multiply_settings_and_seeds_and_keep_their_order(tmp_path):
    path = tmp_path / "methods.yaml"
    path.write_text(FILE)
    methods = read_methods(path)
    assert list(methods) == ["own", "darts", "gdas"]
    assert methods["darts"] == {"model.relaxation": "nas.relaxations.Softmax", "trainer.max_epochs": "3"}
    assert json.loads(methods["gdas"]["model.relaxation"]) == {"class_path": "nas.relaxations.SampledPath"}
    assert methods["gdas"]["model.guards.max_skip_share"] == "0.5"
    trials = make_trials([1, 0], {"model.tau": ["nas.tau.Linear", "{class_path: nas.tau.Cosine}"]}, methods)
    assert [trial.method for trial in trials[::2]] == [
        f"{name}, tau={tau}" for name in methods for tau in ("Linear", "{class_path: Cosine}")
    ]
    assert [trial.seed for trial in trials] == [1, 0] * 6 and len({trial.name for trial in trials}) == 12
    assert trials[4].settings == {**methods["darts"], "model.tau": "nas.tau.Linear"}
    plain = make_trials([1], {}, methods)
    assert [(trial.name, trial.method) for trial in plain] == [(f"{name}_seed1", name) for name in methods]
    assert [Trial.read(json.loads(json.dumps(trial._asdict())), "launch.json") for trial in trials] == trials


def test_equal_ends_of_keys_and_classes_still_give_different_names():
    keys = {"model.weight_optimizer.lr": ["0.1"], "model.arch_optimizer.lr": ["0.1", "0.2"]}
    (first, second) = make_trials([0], keys)
    assert first.method == "model.weight_optimizer.lr=0.1, model.arch_optimizer.lr=0.1" != second.method
    one, two = make_trials([0], {"model.tau": ["nas.tau.Linear", "mine.Linear"]})
    assert (one.method, two.method) == ("model.tau=nas.tau.Linear", "model.tau=mine.Linear")
    long = [f"[{', '.join('1' * 60)}, {end}]" for end in "12"]
    one, two = make_trials([0], {"model.space.init_args.dilations": long})
    assert one.method != two.method and one.method[3:] == two.method[3:] and len(one.method) == 120


def test_launches_without_names_get_different_ones():
    taus = ["nas.tau.Linear", "mine.Linear"]
    old = [trial._replace(method="") for trial in make_trials([0, 1], {"model.tau": taus})]
    assert [trial.method for trial in with_methods(old, "x")] == [f"model.tau={tau}" for tau in taus for _ in "ab"]
    with pytest.raises(UsageError, match=r"x: 001_tau-Linear_seed0: two methods have the name 'a'"):
        with_methods([trial._replace(method="a") for trial in old], "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {}\na: {}", "key 'a' is given twice"),
        ("a: {modell.tau: 1}", "a: 'modell.tau' is not a key of"),
        ("a: {model: nas.tau.Linear}", "a: model must be a mapping"),
        ("a: {seed_everything: 1}", "'seed_everything' is not a key of"),
        ("_a: {}", "'_a' is not the name of a method"),  # legends of matplotlib leave such names out
        ("a b: {}", "'a b' is not the name of a method"),
        ("a: nas.tau.Linear", "a: must map keys to values"),
        ("a: {1: 2}", "a: must map keys to values"),
        ("a: {model: {tau: x}, model.tau: y}", "a: model.tau is given twice"),
        ("a: {model.tau: !!set {x}}", "a: model.tau: {'x'} is not a value of a configuration"),
        ("- a", "must map names of methods"),
        ("", "must map names of methods"),
        ("a: {model.tau: !!python/object:os.system x}", "not valid YAML"),
    ],
)
def test_a_file_that_is_refused_is_named_with_the_reason(tmp_path, text, message):
    path = tmp_path / "methods.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_methods(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))


def test_a_method_with_an_unknown_key_is_named_before_anything_is_written(run_cli, config, tmp_path):
    (tmp_path / "methods.yaml").write_text("good: {}\nbad: {model.taux: nas.tau.Linear}")
    words = ("--config", config(), "--seeds", "0", "--out", "all")
    answer = run_cli("launch", *words, "--methods", "methods.yaml")
    assert answer.code == 2 and "method bad" in answer.complaint and "taux" in answer.complaint
    answer = run_cli("launch", *words, "--methods", "nowhere.yaml")
    assert answer.code == 2 and "nowhere.yaml" in answer.complaint
    (tmp_path / "methods.yaml").write_text("good: {model.tau: nas.tau.Linear}")
    answer = run_cli("launch", *words, "--methods", "methods.yaml", "--set", "model.tau=nas.tau.Linear,nas.tau.Cosine")
    assert answer.code == 2 and "method good changes model.tau too" in answer.complaint
    assert not (tmp_path / "all").exists()
