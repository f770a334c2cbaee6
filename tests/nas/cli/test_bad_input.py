"""Bad input: one line that names file, key or value; exit code 2 where the input is at fault; nothing half-written."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.benchmark import Table
from nas.genotype import Genotype

ONE = {"dilations": [4], "num_layers": 2, "channels": 4}

BROKEN = """
import nas
from torch import nn
pair = {"a": nn.ReLU, "b": nn.Tanh}
class Twice(nas.SearchSpace):
    def network(self, stage="search"):
        return nn.Sequential(nas.choice("act", pair), nas.choice("act", pair))
class Hidden(nas.SearchSpace):
    def network(self, stage="search"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nas.choice("seen", pair))
        hidden = nas.choice("hidden", pair)
        net.register_forward_hook(lambda module, args, out: hidden(out))
        return net
class NoCandidates(nas.SearchSpace):
    def network(self, stage="search"):
        return nas.choice("none", {})
class Shapes(nas.SearchSpace):
    def network(self, stage="search"):
        wide, narrow = (lambda: nn.Linear(64, 10)), (lambda: nn.Linear(64, 9))
        return nn.Sequential(nn.Flatten(), nas.choice("width", {"wide": wide, "narrow": narrow}))
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.warmup": 3}, "warmup"),
        ({"surprise": 1}, "tiny.yaml: unknown key 'surprise'"),
        ({"trainer.max_epochs": "many"}, '"trainer.max_epochs"'),
        ({"trainer.max_epochs": 0}, "max_epochs must be at least 1"),
        ({"trainer.num_threads": 0}, "num_threads must lie in 1 ... 256, got 0"),
        ({"trainer.accelerator": "abacus"}, "trainer: "),
        ({"trainer.devices": 0}, "trainer: .*devices"),
        ({"trainer.num_nodes": 0}, "num_nodes must be at least 1, got 0"),
        ({"trainer.precision": "16-mixed"}, '"trainer.precision"'),
        ({"model.relaxation": {"class_path": "nas.relaxations.Nothing"}}, '"model.relaxation"'),
        ({"model.relaxation": {"class_path": "nas.tau.Linear"}}, '"model.relaxation"'),
        ({"model.tau": {"class_path": "nas.tau.Linear", "init_args": {"begin": 1}}}, "begin"),
        (
            {"model.tau": {"class_path": "nas.tau.Linear", "init_args": {"start": -1.0}}},
            "tau: start must be .* above 0, got -1.0",
        ),
        (
            {"model.tau": {"class_path": "nas.tau.Constant", "init_args": {"value": 0.0}}},
            "tau: value must be .* above 0, got 0.0",
        ),
        ({"model.space": {"class_path": "os.path.join"}}, "not in a trusted module"),
        (
            {"model.space": {"class_path": "nobody.Space"}},
            "'nobody.Space' is not in a trusted module; .*--trust-module nobody",
        ),
        ({"model.space.init_args": ONE}, "has 1 candidate"),
        ({"model.space.init_args": {"dilations": []}}, "has 0 candidate"),
        ({"model.warmup_epochs": -1}, "warmup_epochs must be at least 0"),
        ({"model.cost": {"macs": {"max": 1}}}, "model.cost"),
        ({"model.task.init_args.num_classes": 5}, r"labels must lie in 0 ... 4 .*got 0 ... 9"),
        ({"model.task.init_args.num_classes": 12}, r"outputs of shape \(batch, 12\), got \(2, 10\)"),
        (
            {"data.init_args.batch_size": 601},
            "train split of the training set has 600 samples, fewer than one batch of 601",
        ),
        ({"data.init_args.arch_fraction": 1.5}, "arch_fraction must lie between 0 and 1"),
        ({"data": {"class_path": "nas.data.Npz", "init_args": {"path": "none.npz"}}}, "none.npz: No such file"),
        (
            {"data": {"class_path": "nas.data.Vision", "init_args": {"name": "MNIST", "root": "void"}}},
            "MNIST under void",
        ),
        ({"retrain.trainer": {"max_epoch": 3}}, "max_epoch"),
        ({"retrain.space": {"chanels": 3}}, "chanels"),
        ({"retrain.scheduler": "linear"}, '"retrain.scheduler"'),
        ({"retrain.trainer": {"max_epochs": 0}}, "max_epochs must be at least 1"),
        ({"retrain.space": {"channels": 0}}, "channels must be at least 1"),
        ({"retrain.data": {"batch_size": 100000}}, "retrain: .*fewer than one batch of 100000"),
        ({"retrain.optimizer.init_args": {"lr": -1.0}}, "retrain: optimizer cannot be used: Invalid learning rate"),
        ({"model.weight_optimizer.init_args.lr": -1.0}, "weight_optimizer cannot be used: Invalid learning rate"),
        ({"model.arch_optimizer": {"class_path": "torch.optim.LBFGS"}}, "arch_optimizer cannot be used"),
        ({"model.warmup_epochs": 3}, "warmup_epochs is 3 and trainer.max_epochs is 3"),
        ({"trainer.limit_train_batches": 0}, "limit_train_batches must be above 0"),
        ({"trainer.limit_train_batches": 0.01}, "limit_train_batches 0.01 of 6 batches is less than one"),
        ({"seed_everything": None}, "seed_everything must be a whole number, got None"),
        ({"model.bilevel": {"class_path": "nas.bilevel.Unrolled"}}, "Unrolled needs weight_optimizer"),
        (
            {"model.noise": "sample", "model.relaxation": {"class_path": "nas.relaxations.SampledPath"}},
            "SampledPath runs 1 of each choice",
        ),
        (
            {
                "model.relaxation": {"class_path": "nas.relaxations.BinaryConcrete"},
                "model.space.init_args.dilations": [1, 2, 4],
            },
            "two candidates only",
        ),
    ],
)
def test_configurations(run_cli, config, changes, message):
    answer = run_cli("search", "--config", config(changes), "--out", "run")
    assert answer.code == 2
    assert re.search(message, answer.complaint), answer.complaint
    assert not os.path.exists("run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nas.derive.Ranked", "--strategy.numm", "64"], "Option 'numm' is not accepted"),
        (["{class_path: nas.derive.Ranked, init_args: {numm: 64}}"], "Option 'numm' is not accepted"),
        (["nas.derive.Ranked", "--strategy.num", "many"], '"num": Expected .*int.* Got value: many'),
        (["nas.derive.Ranked", "--strategy.num", "0"], "num and num_batches must be at least 1, got 0"),
        (["nas.derive.Ranked", "--strategy.num"], "expected one argument"),
        (["nas.derive.Ranked", "--stratgy.num", "3"], "unrecognized arguments: --stratgy.num"),
        (["nas.derive.Ranked", "surprise"], "unrecognized arguments: surprise"),
        (["nas.derive.Nothing"], "has no attribute 'Nothing'"),
        (["nas.tau.Linear"], "not correspond to a subclass of DeriveStrategy"),
        (["nobody.Mine"], "'nobody.Mine' is not in a trusted module; .*--trust-module nobody"),
        (["os.system"], "'os.system' is not in a trusted module"),
        (["3"], "Expected a dot import path"),
    ],
)
def test_derive_strategies(run_cli, original, words, message):
    answer = run_cli("derive", "--run", original, "--strategy", *words)
    assert answer.code == 2 and re.search(message, answer.complaint), answer.complaint


def test_arguments_of_the_strategy_of_the_configuration(run_cli, original):
    assert "'num' is not accepted" in run_cli("derive", "--run", original, "--strategy.num", "3").complaint  # of Argmax


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "none.yaml: No such file or directory"),
        ("", "not a configuration"),
        ("- 1", "not a configuration"),
        ("model: [", "not valid YAML"),
        ("data: {}\ndata: {}", "key 'data' is given twice"),
        (
            "model: &a [" + "x, " * 50 + "]\ndata: [" + "*a, " * 200 + "]",
            "more than 2000 values (an alias counts",
        ),
        ("model: " + "[" * 5000, "not valid YAML"),
        ("#" * (2**20 + 1), "larger than"),
        ("seed_everything: 1", "data"),
    ],
)
def test_files(run_cli, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("none.yaml").write_text(text)
    answer = run_cli("search", "--config", "none.yaml", "--out", "run")
    assert answer.code == 2 and "none.yaml" in answer.complaint and message in answer.complaint
    assert not os.path.exists("run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.full((40, 1, 64), np.nan)}, "array 'x_train' holds NaN"),
        ({"x_train": np.array([{}] * 40, dtype=object)}, "array 'x_train' holds Python objects"),
        ({"x_train": np.zeros((0, 1, 64)), "y_train": np.zeros(0, int)}, "array 'x_train' is empty"),
        ({"y_train": np.full(40, 10)}, "labels must lie in 0 ... 9"),
        ({"y_train": np.full(40, -1)}, "labels must lie in 0 ... 9"),
    ],
)
def test_arrays(run_cli, config, changes, message):
    arrays = {
        "x_train": np.zeros((40, 1, 64)),
        "y_train": np.arange(40) % 10,
        "x_test": np.zeros((4, 1, 64)),
        "y_test": np.arange(4),
    }
    np.savez("d.npz", **(arrays | changes))
    path = config({"data": {"class_path": "nas.data.Npz", "init_args": {"path": "d.npz", "batch_size": 10}}})
    answer = run_cli("search", "--config", path, "--out", "run")
    assert answer.code == 2 and message in answer.complaint
    assert not os.path.exists("run")


def test_labels_of_the_test_set_are_looked_at_before_retraining(run_cli, config):
    arrays = {"x_train": np.random.rand(40, 1, 64), "y_train": np.arange(40) % 10}
    np.savez("d.npz", **arrays, x_test=np.zeros((4, 1, 64)), y_test=np.full(4, 10))
    path = config({"data": {"class_path": "nas.data.Npz", "init_args": {"path": "d.npz", "batch_size": 10}}})
    assert run_cli("search", "--config", path, "--out", "run").code == 0  # a search never looks at the test set
    answer = run_cli("retrain", "--run", "run")
    assert answer.code == 2 and "labels must lie in 0 ... 9" in answer.complaint and not os.path.exists("run/retrain")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("Twice", "choice 'act' is used twice, at '0' and '1'"),
        ("Hidden", "choice 'hidden' was called in a supernet that does not own it"),
        ("NoCandidates", "choice 'none' has 0 candidate"),
        ("Shapes", "choice 'width': candidate outputs differ in shape (wide: (2, 10), narrow: (2, 9))"),
    ],
)
def test_spaces(run_cli, config, tmp_path, space, message):
    (tmp_path / "broken.py").write_text(BROKEN)
    path = config({"model.space": {"class_path": f"broken.{space}"}})
    answer = run_cli("search", "--config", path, "--trust-module", "broken", "--out", "run")
    assert answer.code == 2 and message in answer.complaint and not os.path.exists("run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(run_cli, config):
    answer = run_cli("search", "--config", config({"trainer.accelerator": "gpu"}), "--out", "run")
    assert answer.code == 2 and answer.complaint.startswith("nas: trainer: ") and not os.path.exists("run")


def test_a_module_that_fails_to_import_is_named(run_cli, config, tmp_path):
    (tmp_path / "failing.py").write_text("import a_module_that_is_not_there\n")
    path = config({"model.space": {"class_path": "failing.Space"}})
    answer = run_cli("search", "--config", path, "--trust-module", "failing", "--out", "run")
    assert answer.code == 2 and "a_module_that_is_not_there" in answer.complaint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), None),
        (("find",), "unknown command 'find'"),
        (("search",), "one of the arguments --config --resume is required"),
        (("search", "--resume", "r", "--config", "tiny.yaml"), "--config: not allowed with argument --resume"),
        (("search", "--resume", "r", "--out", "o"), "leave out --out"),
        (("search", "--config", "tiny.yaml", "--force"), "--force goes with --resume"),
        (("search", "--config"), "expected one argument"),
        (("search", "--config", "tiny.yaml", "--out", "run", "--model.foo", "1"), "--model.foo"),
        (("search", "--resume", "nowhere"), "nowhere: no such run folder"),
        (("search", "--resume", "empty"), "empty: not a run folder"),
        (("retrain",), "one of the arguments --run --genotype is required"),
        (("retrain", "--genotype", "g.json"), "needs --config FILE"),
        (("retrain", "--genotype", "g.json", "--config", "tiny.yaml", "--inherit"), "leave out --inherit"),
        (("retrain", "--run", "nowhere"), "nowhere: no such run folder"),
        (("retrain", "--genotype", "none.json", "--config", "tiny.yaml"), "none.json: No such file"),
        (("evaluate",), "--run"),
        (("evaluate", "--run", "empty", "--foo"), "unrecognized arguments: --foo"),
        (("derive", "--run", "nowhere"), "nowhere: no such run folder"),
        (("lookup", "--genotype", "none.json"), "required: --table"),
        (("lookup", "--table", "t.json"), "one of the arguments --run --genotype is required"),
        (("lookup", "--table", "t.json", "--run", "nowhere"), "nowhere: no such run folder"),
        (("lookup", "--table", "t.json", "--run", "empty", "--config", "tiny.yaml"), "leave out --config"),
        (("lookup", "--table", "t.json", "--genotype", "none.json"), "none.json: No such file"),
        (("lookup", "--table", "t.json", "--genotype", "none.json", "--model.x", "3"), "leave out --model.x"),
        (
            ("lookup", "--table", "t.json", "--genotype", "tiny.yaml"),
            "tiny.yaml: not a genotype.json; for the notation",
        ),
        (("help", "os.path"), "'os.path' is not in a trusted module"),
        (("help", "nas.tau.Nothing"), "nas.tau.Nothing"),
        (("help", "nas.tau"), "not a class"),
        (("help", "nas"), "not a class"),
        (("search", "--config", "tiny.yaml", "--out", "run", "--trainer.max_epoch", "3"), "--trainer.max_epoch"),
        (("search", "--config", "tiny.yaml", "--out", "run", "--trust-module", "up/x.py"), "is not a module name"),
    ],
)
def test_words(run_cli, config, words, message):
    config()
    Path("empty").mkdir()
    answer = run_cli(*words)
    assert answer.code == 2 and not os.path.exists("run")
    if message is not None:
        assert message in answer.complaint


@pytest.mark.parametrize(
    ("choices", "space", "message"),
    [
        ({"layer1.conv": "dilation_8"}, None, "no label for choice 'layer2.conv'"),
        (
            {"layer1.conv": "dilation_8", "layer2.conv": "dilation_3"},
            None,
            "choice 'layer2.conv' has no candidate 'dilation_3'",
        ),
        ({"layer1.conv": "dilation_8", "layer2.conv": "dilation_1", "x": "y"}, None, "unknown or inactive choice 'x'"),
        (
            {"layer1.conv": "dilation_8", "layer2.conv": "dilation_1"},
            {"class_path": "other.Space"},
            "a genotype of other.Space",
        ),
    ],
)
def test_genotypes(run_cli, config, choices, space, message):
    Genotype(choices, space).save("g.json")
    answer = run_cli("retrain", "--genotype", "g.json", "--config", config(), "--out", "run")
    assert answer.code == 2 and message in answer.complaint and not os.path.exists("run")


def test_a_genotype_with_unknown_keys_is_named(run_cli, config):
    Path("g.json").write_text(json.dumps({"format": "gumbel-nas/genotype", "version": 1, "choices": {}, "weights": 3}))
    assert "g.json: unknown key 'weights'" in run_cli("retrain", "--genotype", "g.json", "--config", config()).complaint


DILATIONS = "search_spaces.dilation.DilationNet1d"


@pytest.mark.parametrize(
    ("space", "label", "table", "message"),
    [
        (None, "dilation_8", DILATIONS, "g.json: this genotype names no space; add a configuration"),
        ({"class_path": "other.Space"}, "dilation_8", DILATIONS, "g.json: space: .*--trust-module other"),
        ({"class_path": DILATIONS}, "dilation_8", "search_spaces.macro.MacroNet", "t.json: a table of another space"),
        ({"class_path": DILATIONS}, "dilation_2", DILATIONS, "t.json: does not have the architecture conv=dilation_2"),
        ({"class_path": DILATIONS}, "dilation_8", None, "t.json: no such table"),
    ],
)
def test_lookups(run_cli, tmp_path, monkeypatch, space, label, table, message):
    monkeypatch.chdir(tmp_path)
    Genotype({"conv": label}, space).save("g.json")
    if table is not None:
        known = Table({"space": {"class_path": table}}, "accuracy")
        known.add({"conv": "dilation_8"}, "test", 0, 0.5)
        known.save(Path("t.json"))
    answer = run_cli("lookup", "--genotype", "g.json", "--table", "t.json")
    assert answer.code == 2 and re.search(message, answer.complaint), answer.complaint


def test_existing_and_unwritable_folders(run_cli, config):
    Path("run").mkdir()
    answer = run_cli("search", "--config", config(), "--out", "run")
    assert answer.code == 2 and "run folder run exists already" in answer.complaint and not os.listdir("run")
    Path("file").write_text("")
    answer = run_cli("search", "--config", "tiny.yaml", "--out", "file/run")
    assert answer.code == 2 and "run folder file/run: cannot be made" in answer.complaint
    answer = run_cli("search", "--config", "tiny.yaml", "--out", "/proc/run")
    assert answer.code == 2 and "/proc/run: cannot be made" in answer.complaint


def test_unfinished_runs_have_no_results(run_cli, config, monkeypatch):
    from nas.training.search_module import SearchModule

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(SearchModule, "training_step", broken)
    answer = run_cli("search", "--config", config(), "--out", "run")
    assert answer.code == 1 and answer.complaint == "nas: out of memory"
    for command in ("retrain", "evaluate"):
        answer = run_cli(command, "--run", "run")
        assert answer.code == 2 and "no genotype.json yet" in answer.complaint and not os.path.exists("run/retrain")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(run_cli, config):
    answer = run_cli("search", "--config", config({"model.weight_optimizer.init_args.lr": 1e30}), "--out", "run")
    assert answer.code == 1 and "is not finite at batch" in answer.complaint
    assert os.path.exists("run/checkpoints/last.ckpt")


def test_errors_of_a_users_module_are_refusals_that_name_their_kind(run_cli, config, tmp_path):
    (tmp_path / "odd.py").write_text(
        "import nas\n"
        "class Raises(nas.SearchSpace):\n"
        "    def network(self, stage='search'):\n"
        "        raise KeyError('boom')\n"
        "class Three(nas.SearchSpace):\n"
        "    def network(self, stage='search'):\n"
        "        return 3\n"
    )
    (tmp_path / "unparsable.py").write_text("def\n")
    for space, message in (
        ("odd.Raises", "KeyError: 'boom'"),
        ("odd.Three", "must be an nn.Module, got int"),
        ("unparsable.X", "unparsable"),
    ):
        path = config({"model.space": {"class_path": space}})
        answer = run_cli("search", "--config", path, "--out", "run", "--trust-module", space.partition(".")[0])
        assert answer.code == 2 and message in answer.complaint and not os.path.exists("run")


def damage(path):
    content = bytearray(Path(path).read_bytes())
    content[len(content) // 2] ^= 1
    Path(path).write_bytes(content)


def test_damaged_files_of_finished_runs_are_refused_not_replaced_by_older_ones(
    run_cli, finished, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "run")
    damage("run/retrain/checkpoints/last.ckpt")
    answer = run_cli("evaluate", "--run", "run")
    assert answer.code == 1 and "last.ckpt: damaged checkpoint" in answer.complaint
    damage("run/checkpoints/last.ckpt")
    for words in (("derive", "--run", "run"), ("retrain", "--run", "run", "--inherit", "--out", "other")):
        answer = run_cli(*words)
        assert answer.code == 1 and "last.ckpt: damaged checkpoint" in answer.complaint
    Path("run/summary.json").write_text('{"stage": "search"}')
    answer = run_cli("search", "--resume", "run")
    assert answer.code == 2 and answer.complaint.endswith("run/summary.json: damaged")
    Path("run/summary.json").unlink()
    answer = run_cli("search", "--resume", "run")
    assert answer.code == 2 and "summary.json is missing" in answer.complaint


def test_a_damaged_metrics_file_is_named(run_cli, config, monkeypatch):
    from nas.training.search_module import SearchModule

    step = SearchModule.training_step

    def failing(self, *args):
        if self.num_batches_done == 8:
            raise RuntimeError("power")
        return step(self, *args)

    monkeypatch.setattr(SearchModule, "training_step", failing)
    assert run_cli("search", "--config", config(), "--out", "run").code == 1
    Path("run/metrics.csv").write_text("step,a\nx,1\n")
    answer = run_cli("search", "--resume", "run")
    assert answer.code == 1 and "run/metrics.csv: damaged" in answer.complaint


def test_debug_shows_the_traceback(run_cli):
    answer = run_cli("evaluate", "--run", "nowhere", "--debug")
    assert answer.code == 2 and "Traceback" in answer.err
