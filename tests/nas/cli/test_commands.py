"""The commands, end to end and small."""

import csv
import hashlib
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import nas
from nas.benchmark import Table
from nas.cli import COMMANDS
from nas.genotype import Genotype

SPACE = """
from functools import partial
import nas
from torch import nn

class Mine(nas.SearchSpace):
    '''A space of one's own.

    Args:
        width: Hidden units.
    '''
    def __init__(self, width: int = 8):
        self.width = width

    def network(self, stage="search"):
        act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity})
        return nn.Sequential(nn.Flatten(), nn.Linear(64, self.width), act, nn.Linear(self.width, 10))
"""


def test_search_writes_the_run_folder_and_says_what_it_found(run_cli, config, tmp_path):
    answer = run_cli("search", "--config", config())
    assert answer.code == 0
    folder = tmp_path / "runs/tiny/0"
    names = {p.name for p in folder.iterdir()}
    assert {
        "config.yaml",
        "checkpoints",
        "genotype.json",
        "summary.json",
        "manifest.json",
        "metrics.csv",
        "system.csv",
        "architecture.svg",
        "architecture.dot",
        "derived.safetensors",
    } < names
    assert len([name for name in names if name.startswith("events.out")]) == 2 and len(names) == 12
    genotype = Genotype.load(folder / "genotype.json")
    summary = json.loads((folder / "summary.json").read_text())
    assert genotype.choices == summary["genotype"] and set(genotype.choices) == {"layer1.conv", "layer2.conv"}
    assert genotype.space["class_path"] == "search_spaces.dilation.DilationNet1d"
    assert genotype.space["init_args"]["channels"] == 4
    assert summary["metric"]["split"] == "arch" and summary["num_architectures"] == 4
    assert genotype.provenance["config_sha256"] == hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest()
    for name, digest in json.loads((folder / "manifest.json").read_text())["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    for label in genotype.choices.values():
        assert label in answer.out
    assert "nas retrain --run runs/tiny/0" in answer.out and "nas evaluate --run runs/tiny/0" in answer.out
    assert "search epoch 3/3" in answer.err  # plain lines where there is no terminal
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [(row["step"], row["epoch"]) for row in rows] == [("6", "0"), ("12", "1"), ("18", "2")]
    assert float(rows[-1]["search/tau"]) == pytest.approx(0.2)
    assert run_cli("search", "--config", "tiny.yaml", "--json").result["run"] == "runs/tiny/1"


def test_the_resolved_configuration_runs_the_run_again(run_cli, run, tmp_path):
    assert run_cli("search", "--config", f"{run}/config.yaml", "--out", "again").code == 0
    for name in ("metrics.csv", "config.yaml"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_later_configs_and_words_win(run_cli, config):
    path = config()
    config({"trainer.max_epochs": 9, "model.gradient_clip_norm": 0.5}, name="first.yaml")
    words = ("search", "--config", "first.yaml", "--config", path, "--model.warmup_epochs", "2")
    answer = run_cli(*words, "--print_config")
    assert answer.code == 0
    printed = yaml.safe_load(answer.out)
    assert printed["model"]["warmup_epochs"] == 2 and printed["trainer"]["max_epochs"] == 3
    assert printed["model"]["gradient_clip_norm"] == 0.5  # of the first file alone


def test_derive_reads_only_and_agrees_with_the_search(run_cli, run, tmp_path):
    before = {p: p.read_bytes() for p in (tmp_path / run).rglob("*") if p.is_file()}
    answer = run_cli("derive", "--run", run, "--out", "g.json", "--json")
    summary = json.loads((tmp_path / run / "summary.json").read_text())
    assert answer.result["genotype"] == summary["genotype"]
    assert answer.result["metric"]["value"] == pytest.approx(summary["metric"]["value"], abs=1e-6)
    assert Genotype.load("g.json").choices == summary["genotype"]
    assert run_cli("derive", "--run", run, "--strategy", "nas.derive.Argmax", "--json").result == answer.result
    assert {p: p.read_bytes() for p in (tmp_path / run).rglob("*") if p.is_file()} == before


STRATEGY = """
from collections.abc import Callable
import nas
from nas.derive import DeriveStrategy

class Fixed(DeriveStrategy):
    def __init__(self, label: str = "dilation_1", num: int = 2, hook: Callable | None = None):
        self.choices = {f"layer{i + 1}.conv": label for i in range(num)}

    def genotype(self, searched):
        return nas.Genotype(self.choices)
"""


def test_derive_passes_arguments_to_the_strategy(run_cli, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fixed.py").write_text(STRATEGY)
    spec = {"class_path": "fixed.Fixed", "init_args": {"label": "dilation_8"}}

    def labels(*words):
        answer = run_cli("derive", "--run", finished, "--trust-module", "fixed", "--json", *words)
        return set(answer.result["genotype"].values())

    assert labels("--strategy", "fixed.Fixed") == {"dilation_1"}
    assert labels("--strategy", "fixed.Fixed", "--strategy.label", "dilation_8") == {"dilation_8"}
    assert labels("--strategy", json.dumps(spec)) == {"dilation_8"}
    assert labels("--strategy", json.dumps(spec), "--strategy.label=dilation_1") == {"dilation_1"}
    words = ("--strategy", "fixed.Fixed", "--trust-module", "fixed", "--strategy.hook", "torch.nn.init.zeros_")
    assert "'torch.nn.init.zeros_' is not a class" in run_cli("derive", "--run", finished, *words).complaint
    trusting = nas.Run(finished, trust_modules=["fixed"])
    for strategy in (spec, import_module("fixed").Fixed("dilation_8")):
        assert set(trusting.derive(strategy=strategy)["genotype"].values()) == {"dilation_8"}
    with pytest.raises(ValueError, match=r"'fixed\.Fixed' is not in a trusted module"):
        nas.Run(finished).derive(strategy=spec)


def test_retrain_then_evaluate(run_cli, run):
    inherited = run_cli("evaluate", "--run", run, "--json").result
    assert inherited["network"] == "derived, inherited weights"
    retrained = run_cli("retrain", "--run", run, "--json").result
    evaluated = run_cli("evaluate", "--run", run, "--json").result
    assert evaluated["network"] == "retrained"
    assert evaluated["test_accuracy"] == retrained["test_accuracy"] == retrained["metric"]["value"]
    convs = 4 * 3 + 4 * 4 * 3
    assert evaluated["params"] == convs + 2 * 8 + 40 + 10 and evaluated["macs"] == 64 * convs + 40
    assert evaluated["latency_ms"] > 0
    assert "exists" not in run_cli("evaluate", "--run", f"{run}/retrain").err
    other = run_cli("retrain", "--run", run, "--seed", 5, "--out", "other", "--json").result
    assert other["seed"] == 5 and other["test_loss"] != retrained["test_loss"]


def test_inherited_weights_are_where_the_retraining_starts(run_cli, run):
    answer = run_cli("retrain", "--run", run, "--inherit", "--json")
    assert answer.result["inherited"] is True
    fresh = run_cli("retrain", "--run", run, "--out", "fresh", "--json").result
    assert answer.result["test_loss"] < fresh["test_loss"]  # two epochs from trained weights against two from none
    assert run_cli("retrain", "--run", run, "--retrain.scheduler", "cosine").code == 2  # overrides belong to --config


def test_a_genotype_by_hand_is_trained_with_larger_sizes(run_cli, config, tmp_path):
    Genotype({"layer1.conv": "dilation_8", "layer2.conv": "dilation_1"}).save("hand.json")
    path = config({"retrain.space": {"channels": 6}, "retrain.data": {"batch_size": 50}})
    result = run_cli("retrain", "--genotype", "hand.json", "--config", path, "--json").result
    assert result["run"] == "runs/tiny/0" and result["params"] == 6 * 3 + 36 * 3 + 24 + 70
    again = run_cli("evaluate", "--run", "runs/tiny/0", "--json").result
    assert again["test_accuracy"] == result["test_accuracy"]
    assert yaml.safe_load((tmp_path / "runs/tiny/0/config.yaml").read_text())["retrain"]["space"] == {"channels": 6}


def test_a_space_of_ones_own_is_searched_when_trusted(run_cli, config, tmp_path):
    (tmp_path / "mine.py").write_text(SPACE)
    path = config({"model.space": {"class_path": "mine.Mine", "init_args": {"width": 12}}})
    refused = run_cli("search", "--config", path)
    assert refused.code == 2 and refused.complaint.endswith(
        "\"model.space\": 'mine.Mine' is not in a trusted module; if the module is yours, add --trust-module mine"
    )
    assert not (tmp_path / "runs").exists()
    answer = run_cli("search", "--config", path, "--trust-module", "mine", "--out", "own")
    assert answer.code == 0, answer.err
    assert "nas retrain --run own --trust-module mine" in answer.out
    assert "mine" not in [line.strip() for line in (tmp_path / "own/config.yaml").read_text().splitlines()]
    assert run_cli("evaluate", "--run", "own").code == 2  # trust is never stored
    assert run_cli("retrain", "--run", "own", "--trust-module", "mine").code == 0
    helped = run_cli("help", "mine.Mine", "--trust-module", "mine")
    assert "A space of one's own." in helped.out and "width: int = 8" in helped.out


def test_regression_from_a_users_arrays(run_cli, config, tmp_path):
    import numpy as np

    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 1, 64))
    y = (x[:, 0, :3].sum(1, keepdims=True) > 0).astype(np.float32)
    np.savez("mine.npz", x_train=x[:240], y_train=y[:240], x_test=x[240:], y_test=y[240:])
    changes = {
        "model.task": {"class_path": "nas.tasks.Regression", "init_args": {"criterion": "huber"}},
        "data": {"class_path": "nas.data.Npz", "init_args": {"path": "mine.npz", "batch_size": 20}},
        "model.space.init_args.num_classes": 1,
        "model.bilevel": {"class_path": "nas.bilevel.Joint"},
        "model.gradient_clip_norm": 1.0,
        "model.weight_schedule": "cosine",
    }
    answer = run_cli("search", "--config", config(changes), "--out", "run", "--json")
    assert answer.code == 0 and answer.result["metric"]["name"] == "mse"
    assert "test_mae" in run_cli("retrain", "--run", "run", "--json").result
    best = run_cli("baseline", "--config", "tiny.yaml", "--num", 2, "--out", "b", "--json").result["best"]
    table = json.loads(Path("b/table.json").read_text())
    scores = [next(iter(row["validation"].values())) for row in table["architectures"]]
    assert best["validation"] == min(scores) and answer.result["metric"]["higher_is_better"] is False


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_run(run_cli, config, precision):
    answer = run_cli("search", "--config", config({"trainer.precision": precision}), "--out", "run")
    assert (
        answer.code == 0
        and run_cli("retrain", "--run", "run").code == 0
        and run_cli("evaluate", "--run", "run").code == 0
    )


def test_retraining_with_label_smoothing_and_clipping(run_cli, config):
    task = {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": 10, "label_smoothing": 0.2}}
    path = config({"retrain.task": task, "retrain.gradient_clip_norm": 0.5, "retrain.scheduler": "one_cycle"})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    smooth = run_cli("retrain", "--run", "run", "--json").result
    assert smooth["test_loss"] > 0.5  # cross-entropy against targets smoothed by 0.2 cannot be lower


def test_lookup_ranks_a_run_and_a_genotype(run_cli, run, config):
    found = Genotype.load("run/genotype.json")
    table = Table({"space": {"class_path": found.space["class_path"]}}, "accuracy")
    labels = ("dilation_1", "dilation_8")
    others = [{"layer1.conv": a, "layer2.conv": b} for a in labels for b in labels]
    others.remove(dict(found.choices))
    for choices, score in zip([found.choices, *others], (0.7, 0.9, 0.8, 0.6), strict=True):
        table.add(choices, "test", 0, score)
    table.save(Path("t.json"))
    answer = run_cli("lookup", "--run", run, "--table", "t.json")
    assert answer.out.splitlines()[1:] == [
        "test accuracy: 0.7",
        "rank in test: 3 of 4",
        "distance to the best in test: 0.2",
    ]
    result = run_cli("lookup", "--run", run, "--table", "t.json", "--out", "copy.json", "--json").result
    assert result["standing"]["test"]["rank"] == 3 and result["standing"]["validation"] is None
    assert result["genotype"] == found.choices and result["table"].endswith(", 4 architectures")
    Genotype(found.choices).save("bare.json")  # names no space
    for words in (("run/genotype.json",), ("bare.json", "--config", config())):
        assert run_cli("lookup", "--genotype", *words, "--table", "copy.json", "--json").result == result
    assert nas.Run(run).lookup("t.json") == result


@pytest.mark.parametrize("words", [("--help",), ("--version",), *[(name, "--help") for name in COMMANDS]])
def test_help_fits_one_page(run_cli, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    answer = run_cli(*words)
    assert answer.code == 0 and answer.err == "" and 0 < len(answer.out.splitlines()) <= 50
    assert all(len(line) <= 80 for line in answer.out.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(run_cli, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "1000")
    parser = import_module(f"nas.cli.{name}_command").PARSER
    page = run_cli(name, "-h").out
    for action in parser._actions:
        assert action.help and all(word in page for word in [action.help, *action.option_strings]), action


@pytest.mark.parametrize("name", ["search", "compress", "retrain", "baseline", "launch", "profile", "export"])
def test_help_names_the_keys_of_a_configuration(run_cli, name):
    page = run_cli(name, "--help").out
    for word in ("--KEY VALUE", "model.space", "model.tau", "trainer.max_epochs", "data", "retrain", "nas help CLASS"):
        assert word in page, word


def test_help_without_a_class_lists_the_commands(run_cli):
    page = run_cli("help").out
    assert page == run_cli("--help").out and all(f"\n  {name} " in page for name in COMMANDS)
    assert run_cli("help", "--json").result == {"commands": page.rstrip()}


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom nas.cli import COMMANDS, main\n"
        "for name in COMMANDS: main([name, '--help'])\n"
        "for words in (['--help'], ['search', '--config', 'none.yaml'], ['search'], ['launch', '--resume', 'x', '--asha']): main(words)\n"
        "assert 'torch' not in sys.modules and 'jsonargparse' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_doctor_and_help(run_cli):
    facts = run_cli("doctor", "--json").result
    assert (
        facts["mixing backend"].startswith(("native: _kernels_cpu", "reference (torch expressions): "))
        and facts["torch"]
    )
    assert facts["gpus"] != "none" or facts["mixing backend, cuda"] == "none: no device"
    assert "start: Tau at the beginning" in run_cli("help", "nas.tau.Exponential").out
    assert "lr" in run_cli("help", "torch.optim.AdamW").out


@pytest.mark.parametrize(
    "name",
    ["nas.relaxations.GumbelSoftmax", "nas.tau.Constant", "nas.bilevel.Joint", "nas.data.Digits", "nas.derive.Ranked"],
)
def test_help_of_a_class_ends_with_its_own_words(run_cli, name):
    """Not with a sentence of Python or torch about any constructor."""
    out = run_cli("help", name).out
    assert "nitialize" not in out and len(out.strip().splitlines()) >= 3


def test_running_as_a_module():
    done = subprocess.run([sys.executable, "-m", "nas", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gumbel-nas ")


def test_inputs_in_a_dict_go_all_the_way(run_cli, config, tmp_path):
    (tmp_path / "dicts.py").write_text(
        "import nas, torch\n"
        "from torch import nn\n"
        "from nas.data import SearchDataModule\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.act = nas.choice('act', {'relu': nn.ReLU, 'tanh': nn.Tanh})\n"
        "        self.head = nn.Linear(30, 10)\n"
        "    def forward(self, parts):\n"
        "        return self.head(self.act(torch.cat([parts[k] for k in 'abc'], 1)))\n"
        "class Space(nas.SearchSpace):\n"
        "    def network(self, stage='search'):\n"
        "        return Net()\n"
        "class Rows(torch.utils.data.Dataset):\n"
        "    def __len__(self):\n"
        "        return 80\n"
        "    def __getitem__(self, i):\n"
        "        if i >= 80: raise IndexError\n"
        "        return {k: torch.full((10,), i / 80) for k in 'abc'}, i % 10\n"
        "class Data(SearchDataModule):\n"
        "    def train_set(self, augment):\n"
        "        return Rows()\n"
        "    def test_set(self):\n"
        "        return Rows()\n"
    )
    path = config(
        {
            "model.space": {"class_path": "dicts.Space"},
            "data": {"class_path": "dicts.Data", "init_args": {"batch_size": 20}},
        }
    )
    trust = ("--trust-module", "dicts")
    assert run_cli("search", "--config", path, "--out", "my run", *trust).code == 0
    assert run_cli("retrain", "--run", "my run", *trust).code == 0
    result = run_cli("evaluate", "--run", "my run", "--json", *trust).result
    assert result["macs"] == 300 and result["params"] == 310
    assert "nas retrain --run 'my run' --trust-module dicts" in run_cli("search", "--resume", "my run", *trust).out


def test_a_reader_that_has_gone_ends_a_command_as_the_signal_would(monkeypatch, run_cli):
    def gone(*args):
        raise SystemExit(1)  # as rich does

    monkeypatch.setattr("nas.cli.doctor_command.show", gone)
    assert run_cli("doctor").code == 141
