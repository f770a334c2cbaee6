"""Runs, exports and genotypes that somebody else made: no command calls what they name."""

import hashlib
import json
import shutil

import pytest

NESTED = "search_spaces.partial_channels.PartialChannels"
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
    "class_path": "nas.runs.spaces.load_space",
    "init_args": {"spec": {"class_path": "evil_mod.Space"}, "trusted": ["evil_mod"]},
}
VISION = {"class_path": "nas.data.Vision", "init_args": {"name": "ImageFolder", "root": "precious"}}
LAMBDA = {"class_path": "torchvision.transforms.v2.Lambda", "init_args": {"lambd": "nas.io.files.sync_folder"}}


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
        {"max_epochs": {"class_path": "nas.io.files.write_atomic", "init_args": {"path": "touched", "data": "x"}}},
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
    ("derive", "model/cost", {"nas.io.files.remove_temporary_files": {"max": 1}}, "remove_temporary_files"),
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
def test_a_run_that_names_what_it_may_not_is_refused(folder, command, key, value, said):
    folder.change_config("run", key, value)
    if command in ("evaluate", "export", "retrain") or key.startswith("retrain"):
        shutil.copy(folder / "run" / "config.yaml", folder / "run" / "retrain" / "config.yaml")
    if command == "resume":
        folder.unfinish()
    folder.refuse("run", READING[command], said)


def test_yaml_makes_no_python_object(folder):
    (folder / "run" / "config.yaml").write_text("model: !!python/object/apply:os.system ['touch touched']\n")
    folder.refuse("run", READING["profile"], "python/object")


def test_nas_load_of_a_run_imports_nothing_that_it_names(folder):
    import nas

    folder.change_config("run/retrain", "model/space", LOAD_SPACE)
    with pytest.raises(ValueError, match="load_space"):
        nas.load("run")
    with pytest.raises(ValueError, match="load_space"):
        nas.create_model("run", num_classes=3)
    folder.check_no_mark()


@pytest.mark.parametrize("space", [{"class_path": "evil_mod.Space"}, LOAD_SPACE, {"class_path": "nas.tau.Linear"}])
def test_nas_load_of_an_export_imports_nothing_that_it_names(folder, space):
    import nas

    export = folder / "run" / "export"
    folder.change_json("run/export/config.json", space=space)
    digest = hashlib.sha256((export / "config.json").read_bytes()).hexdigest()
    manifest = json.loads((export / "manifest.json").read_text())
    folder.change_json("run/export/manifest.json", sha256={**manifest["sha256"], "config.json": digest})
    for load in (nas.load, nas.create_model):
        with pytest.raises(ValueError, match=r"evil_mod|load_space|nas\.tau\.Linear"):
            load(export)
    folder.check_no_mark()


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
def test_a_genotype_names_only_what_the_configuration_has(folder, changes, said):
    folder.change_json("run/genotype.json", **changes)
    words = "export --config run/config.yaml --genotype run/genotype.json --formats genotype --out run/new".split()
    folder.refuse("run", words, said)
