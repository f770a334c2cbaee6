"""Published tables: small files of the same forms, read by made-up packages with the functions of the real ones, and by the real ones."""

import bz2
import json
import pickle
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from nas.benchmark import DATASETS, Table, open_table
from nas.io.errors import UsageError
from search_spaces.dilation import DilationNet1d
from search_spaces.macro import MacroNet
from search_spaces.nasbench201 import OPS, NASBench201

CELLS = [f"|{a}~0|+|none~0|{b}~1|+|skip_connect~0|none~1|none~2|" for a, b in product(OPS[1:3], OPS[2:4])]
TRUSTED = ("nats_bench", "nas_201_api")
VALID, TEST = [60.0, 70.5, 65.0, 50.0], [58.0, 66.0, 66.5, 49.0]

# the names and arguments of NATS-Bench 1.8 and NAS-Bench-201 2.1
API = """
class API:
    def __init__(self, content):
        self.meta_archs, self.evaluated_indexes, self.results = content

    def __len__(self):
        return len(self.meta_archs)

    def get_more_info(self, index, dataset, iepoch=None, hp="12", is_random=True):
        assert (hp, is_random) == ("200", False)
        return {f"{name}-accuracy": value for name, value in self.results[dataset][index].items()}
"""
NATS = (
    API
    + """
import bz2, pickle
def create(file_path_or_dict, search_space, fast_mode=False, verbose=True):
    assert isinstance(file_path_or_dict, str) and search_space == "topology" and not verbose
    path = file_path_or_dict + "/meta.pickle.pbz2" if fast_mode else file_path_or_dict
    return API(pickle.load(bz2.open(path)))
"""
)
NAS_201 = (
    API
    + """
import torch
def NASBench201API(file_path_or_dict=None, verbose=True):
    assert isinstance(file_path_or_dict, str) and not verbose
    return API(torch.load(file_path_or_dict, weights_only=True))
"""
)
CONTENT = (
    [*CELLS, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"],
    {0, 1, 2, 3},  # the last has no results
    {
        "cifar10-valid": [{"train": 99.0, "valid": v, "test": t} for v, t in zip(VALID, TEST, strict=True)],
        "cifar10": [{"train": 99.0, "test": t + 1} for t in TEST],
    },
)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Made-up packages, and a file or folder for each."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    for module in TRUSTED:
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/nats_bench.py").write_text(NATS)
    (tmp_path / "site/nas_201_api.py").write_text(NAS_201)
    (tmp_path / "nats.pbz2").write_bytes(bz2.compress(pickle.dumps(CONTENT)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/meta.pickle.pbz2").write_bytes((tmp_path / "nats.pbz2").read_bytes())
    for index in range(4):
        (tmp_path / f"folder/{index:06d}.pickle.pbz2").touch()
    torch.save(CONTENT, tmp_path / "201.pth")
    return tmp_path


FILES = pytest.mark.parametrize("name", ["nats.pbz2", "folder", "201.pth"])


@FILES
def test_values_of_a_benchmark_are_those_of_its_package(packages, name):
    space = NASBench201()
    table = open_table(packages / name, space, dataset="cifar10-valid", trusted=TRUSTED)
    for text, valid, test, ranks in zip(CELLS, VALID, TEST, [(3, 3), (1, 2), (2, 1), (4, 4)], strict=True):
        choices = space.parse_genotype(text).choices
        found = [table.standing(choices, part) for part in ("validation", "test")]
        assert found == [
            {"rank": ranks[0], "num": 4, "value": valid, "regret": 70.5 - valid},
            {"rank": ranks[1], "num": 4, "value": test, "regret": 66.5 - test},
        ]
    assert table.standing(space.parse_genotype(CONTENT[0][-1]).choices, "test") is None
    other = open_table(packages / name, space, dataset="cifar10", trusted=TRUSTED)
    assert other.standing(choices, "validation") is None and other.standing(choices, "test")["value"] == 50.0
    assert "cifar10-valid, 200 epochs, 4 architectures" in table.source and table.metric == "accuracy (%)"


def test_a_space_of_fewer_operations_is_ranked_among_all(packages):
    space = NASBench201(ops=OPS[:3])  # only CELLS[0] and CELLS[2]
    table = open_table(packages / "201.pth", space, dataset="cifar10-valid", trusted=TRUSTED)
    standing = table.standing(space.parse_genotype(CELLS[0]).choices, "validation")
    assert (standing["rank"], standing["num"]) == (3, 4)


def test_a_published_table_is_kept_as_an_own_table(packages):
    space = NASBench201(ops=OPS[:3])
    table = open_table(packages / "nats.pbz2", space, dataset="cifar10-valid", trusted=TRUSTED)
    table.save(packages / "own.json")
    own = open_table(packages / "own.json", space)
    assert (own.rows, own.source, own.metric) == (table.rows, table.source, table.metric)


class Evil:
    """Writes a file where it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


@FILES
def test_nothing_is_unpickled_nor_imported_without_trust(packages, monkeypatch, name):
    monkeypatch.chdir(packages)
    for path in ("nats.pbz2", "folder/meta.pickle.pbz2"):
        Path(path).write_bytes(bz2.compress(pickle.dumps(Evil())))
    torch.save(Evil(), "201.pth")
    for module in TRUSTED:
        Path(f"site/{module}.py").write_text("import pathlib; pathlib.Path('harm').touch()")
    with pytest.raises(UsageError, match=rf"{name}: a pickle of .*, which may run code .*--trust-module n\w+$"):
        open_table(Path(name), NASBench201(), dataset="cifar10", trusted=("search_spaces",))
    assert not Path("harm").exists()


@FILES
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": None}, "NA.* needs a dataset: one of cifar10-valid, cifar10, cifar100, ImageNet16-120; got None"),
        ({"dataset": "mnist"}, "NA.* needs a dataset: .*; got mnist"),
        ({"dataset": "cifar100"}, "N.*: KeyError: 'cifar100'"),
        ({"space": MacroNet()}, "a table of another space: NAS-Bench-Macro string: expected 8 digits"),
    ],
)
def test_refused_benchmarks(packages, name, arguments, message):
    given = {"dataset": "cifar10", "space": NASBench201(), "trusted": TRUSTED} | arguments
    with pytest.raises(UsageError, match=f"{name}: {message}"):
        open_table(packages / name, **given)


@FILES
def test_a_missing_package_is_named(packages, monkeypatch, name):
    for module in TRUSTED:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"{name}: .* needs: pip install na[\w-]+$"):
        open_table(packages / name, NASBench201(), dataset="cifar10", trusted=TRUSTED)


@FILES
def test_a_damaged_file_is_named(packages, name):
    path = packages / name
    path = path / "meta.pickle.pbz2" if path.is_dir() else path
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UsageError, match=f"{name}: NA.*: "):
        open_table(packages / name, NASBench201(), dataset="cifar10", trusted=TRUSTED)


MACRO = {
    "00000000": {"test_acc": [80.0, 82.0], "mean_acc": 81.0, "std": 1.0, "params": 1, "flops": 2},
    "12000000": {"test_acc": [90.0, 91.0], "mean_acc": 90.5, "std": 0.5, "params": 1, "flops": 2},
    "20000000": {"test_acc": [85.0, 85.0], "mean_acc": 85.0, "std": 0.0, "params": 1, "flops": 2},
}


def test_nas_bench_macro(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(MACRO))
    space = MacroNet()
    table = open_table(tmp_path / "m.json", space)
    standing = [table.standing(space.parse_genotype(text).choices, "test") for text in MACRO]
    assert [(s["rank"], s["num"], s["value"], s["regret"]) for s in standing] == [
        (3, 3, 81.0, 9.5),
        (1, 3, 90.5, 0.0),
        (2, 3, 85.0, 5.5),
    ]
    assert table.standing(space.parse_genotype("00000000").choices, "validation") is None
    assert table.standing(space.parse_genotype("00000001").choices, "test") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged, not valid JSON"),
        ("[]", "damaged, not an object"),
        ("{}", "no architectures"),
        ('{"00000000": 3}', "not a table: '00000000' has no number 'mean_acc'"),
        ('{"00000000": {"mean_acc": true}}', "not a table: '00000000' has no number 'mean_acc'"),
        ('{"00000000": {"mean_acc": 1e999}}', "damaged, not valid JSON"),
        ('{"00000000": {"mean_acc": 1}, "00000000": {"mean_acc": 2}}', "damaged, .*: duplicate key"),
        ('{"000": {"mean_acc": 1}}', "a table of another space: NAS-Bench-Macro string: expected 8 digits, got 3"),
        ('{"format": "gumbel-nas/genotype", "version": 1}', "not a table"),
        ('{"format": "gumbel-nas/table", "version": 1, "training": 3}', "damaged"),
    ],
)
def test_refused_json(tmp_path, text, message):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UsageError, match=f"m.json: {message}"):
        open_table(tmp_path / "m.json", MacroNet())


def test_other_refusals(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(MACRO))
    Table({"space": {"class_path": "search_spaces.macro.MacroNet"}}, "accuracy").save(tmp_path / "own.json")
    for name, space, message in (
        ("m.json", DilationNet1d(), "a table of another space: DilationNet1d has no text notation"),
        ("own.json", DilationNet1d(), r"another space: search_spaces\.macro\.MacroNet, not search_spaces\.dilation"),
        ("none.json", MacroNet(), "no such table"),
        (".", MacroNet(), r"not a folder of NATS-Bench \(meta.pickle.pbz2 is missing\)"),
    ):
        with pytest.raises(UsageError, match=message):
            open_table(tmp_path / name, space)
    with pytest.raises(UsageError, match="a dataset is for NAS-Bench-201 and NATS-Bench only, got cifar10"):
        open_table(tmp_path / "m.json", MacroNet(), dataset="cifar10")
    assert open_table(tmp_path / "own.json", MacroNet()).rows == {}
    Table({}, "accuracy").save(tmp_path / "unnamed.json")  # its trainings name no space, so any space is possible
    assert open_table(tmp_path / "unnamed.json", MacroNet()).rows == {}


def results_of(utils, index, text):
    """Results of two seeds on every dataset, as the real package keeps them: accuracy index + seed + epoch / 1000."""
    results = utils.ArchResults(index, text)
    for dataset, seed in product(DATASETS, (7, 9)):
        one = utils.ResultsCount(dataset, None, {}, {}, 1.0, 1.0, {"arch_str": text}, seed, 200, None)
        accuracies = {epoch: index + seed + epoch / 1000 for epoch in range(200)}
        one.update_train_info(accuracies, accuracies, accuracies, dict.fromkeys(range(200), 1.0))
        for name in ("ori-test", *(() if dataset == "cifar10" else ("x-valid", "x-test"))):
            one.update_OLD_eval(name, accuracies, accuracies)
        results.update(dataset, seed, one)
    return results.state_dict()


@pytest.mark.integrations
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("module", TRUSTED)
def test_the_real_packages(tmp_path, module, dataset):
    package = pytest.importorskip(module)
    names = ("12", "200") if module == "nats_bench" else ("less", "full")
    infos = {index: {name: results_of(package, index, text) for name in names} for index, text in enumerate(CELLS)}
    content = {"meta_archs": CELLS, "arch2infos": infos, "evaluated_indexes": list(infos)}
    if module == "nats_bench":
        package.pickle_save(content, tmp_path / "t.pickle")
        path = tmp_path / "t.pickle.pbz2"
        folder = tmp_path / "folder"
        folder.mkdir()
        package.pickle_save({"meta_archs": CELLS, "evaluated_indexes": []}, folder / "meta.pickle")
        for index, info in infos.items():
            package.pickle_save(info, folder / f"{index:06d}.pickle")
        paths = [path, folder]
    else:
        torch.save(content, tmp_path / "t.pth")
        paths = [tmp_path / "t.pth"]
    space = NASBench201()
    for path in paths:
        table = open_table(path, space, dataset=dataset, trusted=TRUSTED)
        for index, text in enumerate(CELLS):
            choices = space.parse_genotype(text).choices
            value = pytest.approx(index + 8 + 0.199)
            assert table.standing(choices, "test") == {
                "rank": 4 - index,
                "num": 4,
                "value": value,
                "regret": pytest.approx(3 - index),
            }
            assert (table.value(choices, "validation") is None) == (dataset == "cifar10")
