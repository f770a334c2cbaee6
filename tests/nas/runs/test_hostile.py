"""Folders that somebody else made: no command calls what they name, and nothing changes outside the folder that a command was given."""

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from nas.cli import main

EVIL = "from pathlib import Path\nPath('touched').touch()\n\ndef cost(network, inputs):\n    return 1.0\n\nclass Space:\n    pass\n"
SAFE = "search_spaces.dilation.DilationNet1d"
NESTED = "search_spaces.partial_channels.PartialChannels"


@pytest.fixture(scope="module")
def finished(original, tmp_path_factory):
    """A search that was retrained, with an export."""
    run = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(original, run)
    assert main(["retrain", "--run", str(run), "--json"]) == 0
    return run


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A working directory with a run, a launch, a module that leaves a mark when it is imported, and files that belong to someone else."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "evil_mod.py").write_text(EVIL)
    (tmp_path / "precious.txt").write_text("step\nprecious\n")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / ".x.tmp").write_text("precious")
    launch = tmp_path / "launch"
    launch.mkdir()
    shutil.copy(finished / "config.yaml", launch / "base.yaml")
    write_launch(launch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_mod", raising=False)
    return tmp_path


def write_launch(launch, **changes):
    trial = {"name": "seed0", "seed": 0, "settings": {}, **changes.pop("trial", {})}
    content = {"format": "gumbel-nas/launch", "version": 1, "retrain": False, "num_baseline": 0, "trials": [trial]}
    content = {key: value for key, value in {**content, **changes}.items() if value != "missing"}
    (launch / "launch.json").write_text(json.dumps(content))


def change_config(run, key, value):
    path = run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    section = values
    *parents, last = key.split("/")
    for parent in parents:
        section = section[parent]
    section[last] = value
    path.write_text(yaml.safe_dump(values))


def change_json(path, **changes):
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    path.write_text(json.dumps({**content, **changes}))


def outside(folder, given):
    """Content of all files but those of the folder that the command was given."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if given not in path.parents and "__pycache__" not in path.parts:
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "other"
    return found


def refuse(nas, folder, given, words, said):
    """Runs a command that must answer with one line, and change nothing outside."""
    before = outside(folder, folder / given)
    answer = nas(*words)
    assert answer.code in (1, 2), answer.out
    assert re.search(said, answer.complaint), answer.complaint
    assert outside(folder, folder / given) == before
    assert not (folder / "touched").exists() and "evil_mod" not in sys.modules


READING = {
    "profile": ["profile", "--config", "run/config.yaml"],
    "report": ["report", "--run", "run"],
    "derive": ["derive", "--run", "run"],
    "evaluate": ["evaluate", "--run", "run"],
    "export": ["export", "--run", "run", "--formats", "genotype", "--out", "run/new"],
    "retrain": ["retrain", "--run", "run", "--out", "run/new"],
    "resume": ["search", "--resume", "run"],
}
LOAD_SPACE = {
    "class_path": "nas.runs.config.load_space",
    "init_args": {"spec": {"class_path": "evil_mod.Space"}, "trusted": ["evil_mod"]},
}
VISION = {"class_path": "nas.data.Vision", "init_args": {"name": "ImageFolder", "root": "precious"}}
LAMBDA = {"class_path": "torchvision.transforms.v2.Lambda", "init_args": {"lambd": "nas.files.sync_folder"}}


def vision(**init_args):
    return {**VISION, "init_args": {**VISION["init_args"], **init_args}}


NAMED = [
    ("profile", "model/space", LOAD_SPACE, "load_space.*--trust-module"),
    ("report", "model/space", LOAD_SPACE, "load_space.*--trust-module"),
    ("export", "model/space", LOAD_SPACE, "load_space.*--trust-module"),
    ("derive", "model/space", "evil_mod.Space", "--trust-module evil_mod"),
    (
        "profile",
        "model/space",
        {"class_path": NESTED, "init_args": {"space": LOAD_SPACE}},
        "load_space' is not a class that a configuration may name",
    ),
    (
        "evaluate",
        "retrain/trainer",
        {"max_epochs": {"class_path": "nas.files.write_atomic", "init_args": {"path": "touched", "data": "x"}}},
        "retrain.trainer.max_epochs.*write_atomic",
    ),
    ("derive", "model/weight_optimizer", "nas.launch.trials.start", "start"),
    (
        "evaluate",
        "data",
        {"class_path": "nas.report.tensorboard.serve", "init_args": {"folder": "run", "port": 0}},
        "serve",
    ),
    (
        "retrain",
        "model/task",
        {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "a", "model": "b"}},
        "torch.hub.load",
    ),
    (
        "profile",
        "model/space",
        {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "DEFAULT"}},
        "resnet18",
    ),
    ("derive", "data", vision(transforms=[LAMBDA]), "Lambda|sync_folder"),
    ("evaluate", "data", vision(transforms=["torchvision.datasets.utils.download_url"]), "download_url"),
    (
        "derive",
        "data",
        vision(
            transforms=[
                {
                    "class_path": "torchvision.transforms.v2.RandomApply",
                    "init_args": {"transforms": ["torchvision.transforms.v2.RandomHorizontalFlip"]},
                }
            ]
        ),
        "RandomApply",
    ),
    (
        "retrain",
        "retrain/data",
        {"name": "CIFAR10", "transforms": [{"class_path": "evil_mod.Space"}]},
        "evil_mod|name|transforms",
    ),
    ("retrain", "retrain/task", {"class_path": "evil_mod.Space"}, "--trust-module evil_mod"),
    ("derive", "model/cost", {"nas.files.remove_scraps": {"max": 1}}, "remove_scraps"),
    ("profile", "model/cost", {"evil_mod.cost": {"max": 1}}, "--trust-module evil_mod"),
    (
        "derive",
        "model/regularizers",
        [
            {
                "class_path": "pytorch_lightning.callbacks.LambdaCallback",
                "init_args": {"on_fit_start": "evil_mod.Space"},
            }
        ],
        "LambdaCallback|evil_mod",
    ),
    ("evaluate", "model/arch_optimizer", "torch.optim.Adam.step", "Adam.step"),
    (
        "derive",
        "data",
        {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "precious"}},
        "CSVLogger",
    ),
    ("derive", "model/guards", "precious.txt", "model.guards must be a mapping"),
    ("evaluate", "retrain", "precious.txt", "retrain must be a mapping"),
    ("profile", "model/tau", "nas.tau.Exponential.forward", "forward"),
    (
        "derive",
        "model/derive",
        {"class_path": "nas.derive.Argmax", "init_args": {"x": {"class_path": "evil_mod.Space"}}},
        "x|evil_mod",
    ),
    ("profile", "model/relaxation", "nas.tau.Exponential", "does not correspond to a subclass of Relaxation"),
    ("profile", "data", "nas.data.SearchDataModule", "abstract"),
    ("resume", "model/tau", "evil_mod.Space", "--trust-module evil_mod"),
]


@pytest.mark.parametrize(
    ("command", "key", "value", "said"), NAMED, ids=[f"{i}-{case[0]}-{case[1]}" for i, case in enumerate(NAMED)]
)
def test_a_run_that_names_what_it_may_not_is_refused(nas, folder, command, key, value, said):
    change_config(folder / "run", key, value)
    if command in ("evaluate", "export", "retrain") or key.startswith("retrain"):
        shutil.copy(folder / "run" / "config.yaml", folder / "run" / "retrain" / "config.yaml")
    if command == "resume":
        unfinish(folder / "run")
    refuse(nas, folder, "run", READING[command], said)


def test_yaml_makes_no_python_object(nas, folder):
    (folder / "run" / "config.yaml").write_text("model: !!python/object/apply:os.system ['touch touched']\n")
    refuse(nas, folder, "run", READING["profile"], "python/object")


def test_nas_load_of_a_run_imports_nothing_that_it_names(folder):
    import nas

    change_config(folder / "run" / "retrain", "model/space", LOAD_SPACE)
    with pytest.raises(ValueError, match="load_space"):
        nas.load("run")
    with pytest.raises(ValueError, match="load_space"):
        nas.create_model("run", num_classes=3)
    assert not (folder / "touched").exists()


@pytest.mark.parametrize("space", [{"class_path": "evil_mod.Space"}, LOAD_SPACE, {"class_path": "nas.tau.Linear"}])
def test_nas_load_of_an_export_imports_nothing_that_it_names(folder, space):
    import nas

    export = folder / "run" / "export"
    change_json(export / "config.json", space=space)
    digest = hashlib.sha256((export / "config.json").read_bytes()).hexdigest()
    manifest = json.loads((export / "manifest.json").read_text())
    change_json(export / "manifest.json", sha256={**manifest["sha256"], "config.json": digest})
    for load in (nas.load, nas.create_model):
        with pytest.raises(ValueError, match=r"evil_mod|load_space|nas\.tau\.Linear"):
            load(export)
    assert not (folder / "touched").exists()


def test_nas_load_of_a_retrained_run_needs_no_data(folder, monkeypatch):
    import nas
    from nas.data import SequentialDigits

    def unreadable(self, *args, **options):
        raise AssertionError("data were made")

    monkeypatch.setattr(SequentialDigits, "__init__", unreadable)
    assert not nas.load("run").training


GENOTYPES = [
    ({"space": {"class_path": "evil_mod.Space"}}, "evil_mod.Space"),
    ({"space": LOAD_SPACE}, "load_space"),
    ({"choices": {"<script>": "a"}}, "not the name of a choice"),
    ({"probabilities": {"$x$<b>": {"a": 1.0}}}, "probabilities"),
    ({"probabilities": {"layer1": {"<img src=x>": 1.0}}}, "probabilities"),
]


@pytest.mark.parametrize(("changes", "said"), GENOTYPES)
def test_a_genotype_names_only_what_the_configuration_has(nas, folder, changes, said):
    genotype = folder / "run" / "genotype.json"
    change_json(genotype, **changes)
    words = ["--config", "run/config.yaml", "--genotype", genotype]
    refuse(nas, folder, "run", ["profile", *words], said)
    refuse(nas, folder, "run", ["export", *words, "--formats", "genotype", "--out", "run/new"], said)


LAUNCHES = [
    ({"trial": {"settings": {"out": "precious"}}}, "'out' is not a key"),
    ({"trial": {"settings": {"trust-module": "evil_mod"}}}, "'trust-module' is not a key"),
    ({"trial": {"settings": {"model.tau --trust-module": "evil_mod"}}}, "is not a key"),
    ({"trial": {"settings": {"seed_everything": "1"}}}, "'seed_everything' is not a key"),
    ({"trial": {"settings": {"model.tau": ["--trust-module", "evil_mod"]}}}, "model.tau must be a text"),
    ({"trial": {"settings": {"model.space": "evil_mod.Space"}}}, "--trust-module evil_mod"),
    ({"trial": {"name": "../../precious"}}, "is not the name of a trial"),
    ({"trial": {"name": "/tmp/precious"}}, "is not the name of a trial"),
    ({"trial": {"name": ".."}}, "is not the name of a trial"),
    ({"trial": {"seed": "0 --trust-module=evil_mod"}}, "seed must be a whole number"),
    ({"trial": {"command": "x"}}, "a trial must have the keys"),
    ({"trials": "missing"}, "trials must be a list"),
    ({"retrain": "yes"}, "retrain must be a bool"),
    ({"num_baseline": "missing"}, "num_baseline must be a int"),
    ({"version": 2}, "not a launch"),
]


@pytest.mark.parametrize(("changes", "said"), LAUNCHES)
def test_a_launch_written_by_hand_gives_no_flags_and_no_paths(nas, folder, changes, said):
    write_launch(folder / "launch", **changes)
    refuse(nas, folder, "launch", ["launch", "--resume", "launch", "--max-failures", "0"], said)


def test_set_gives_no_flags(nas, folder):
    words = ["launch", "--config", "run/config.yaml", "--seeds", "0", "--set", "out=precious", "--out", "other"]
    refuse(nas, folder, "other", words, "--set: 'out' is not a key")


def unfinish(run):
    for name in ("summary.json", "genotype.json", "manifest.json"):
        (run / name).unlink()
    shutil.rmtree(run / "retrain")


LINKS = [
    ("run/.lock", "precious.txt", READING["resume"]),
    ("run/metrics.csv", "precious.txt", READING["resume"]),
    ("run/system.csv", "precious.txt", READING["resume"]),
    ("run/checkpoints/previous.ckpt", "precious.txt", READING["resume"]),
    ("run/checkpoints", "precious", READING["resume"]),
    ("run/events.out.tfevents.1.host.1.0", "precious.txt", READING["resume"]),
    ("run/architecture.svg", "precious.txt", READING["resume"]),
    ("run/summary.json.new", "nowhere", READING["resume"]),
    ("run/retrain", "precious", ["retrain", "--run", "run"]),
    ("launch/.lock", "precious.txt", ["launch", "--resume", "launch"]),
    ("launch/trials", "precious", ["launch", "--resume", "launch"]),
    ("launch/logs", "precious", ["launch", "--resume", "launch"]),
    ("launch/baseline", "precious", ["launch", "--resume", "launch"]),
]


@pytest.mark.parametrize(("link", "target", "words"), LINKS, ids=[case[0] for case in LINKS])
def test_a_link_where_a_file_should_be_is_refused(nas, folder, link, target, words):
    if words is READING["resume"]:
        unfinish(folder / "run")
    path = folder / link
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(folder / target)
    refuse(nas, folder, link.split("/")[0], words, f"{link}: a link")


def test_a_report_replaces_a_link_and_leaves_what_it_points_to(nas, folder):
    (folder / "run" / "report.html").symlink_to(folder / "precious.txt")
    before = outside(folder, folder / "run")
    assert nas("report", "--run", "run").code == 0
    assert outside(folder, folder / "run") == before and not (folder / "run" / "report.html").is_symlink()


def test_an_export_does_not_follow_a_link(nas, folder):
    shutil.rmtree(folder / "run" / "export")
    (folder / "run" / "export").symlink_to(folder / "precious")
    refuse(nas, folder, "run", ["export", "--run", "run"], "exists")


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "genotype.json"])
def test_a_pipe_or_device_is_not_read(nas, folder, name):
    (folder / "run" / name).unlink()
    os.mkfifo(folder / "run" / name)
    refuse(nas, folder, "run", ["report", "--run", "run", "--format", "md"], name.split(".")[0])


def test_cost_tables_hold_numbers_alone(nas, folder):
    change_config(folder / "run", "model/cost", {"macs": {"max": 1e9}})
    table = {"name": "macs", "fixed": "__import__('os')", "terms": [[{"layer1": 3}, []]]}
    (folder / "run" / "cost_tables.json").write_text(json.dumps({"macs": table}))
    refuse(nas, folder, "run", READING["derive"], "cost_tables.json: damaged")


MARKUP = "<img src=x onerror=alert(1)>|`[x](javascript:alert(1))"


@pytest.mark.parametrize("form", ["html", "md"])
def test_reports_show_markup_as_text(nas, folder, form):
    run = folder / "run"
    metric = {"name": MARKUP, "value": 1.0, "split": MARKUP}
    change_json(run / "summary.json", metric=metric, cost={MARKUP: 1}, device=MARKUP)
    change_json(run / "manifest.json", versions={MARKUP: MARKUP}, git_commit=MARKUP)
    with open(run / "config.yaml", "a") as file:
        file.write("# ```\n# <script>alert(1)</script>\n")
    text = (run / "metrics.csv").read_text().replace("arch/loss", "arch/$\\frac{<b>")
    (run / "metrics.csv").write_text(text)
    assert nas("report", "--run", "run", "--format", form).code == 0
    report = (run / f"report.{form}").read_text()
    prose = re.sub(r"(?ms)^(`{3,})\w+\n.*?^\1$", "", report)
    assert "<img" not in prose and "<script" not in prose
    assert form == "html" or not re.search(r"(?<!\\)\]\(javascript", prose)
    rows = [line for line in prose.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 4) for line in rows)  # two or three columns
