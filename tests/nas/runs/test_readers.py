"""Every reader against made-up files: a file that cannot be read is refused in one line that names it, soon and in little memory."""

import contextlib
import hashlib
import json
import resource
import shutil
import time
from copy import deepcopy
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nas.benchmark import Table
from nas.costs import latency
from nas.costs.table import CostTable
from nas.data import Npz
from nas.export.manifest import read_manifest, read_tensors
from nas.genotype import Genotype
from nas.io import checkpoint_io, csv_file
from nas.launch.launch import read_launch
from nas.report.content import read_content
from nas.runs.config import load_experiment
from nas.runs.folder import RunFolder
from nas.runs.options import ConfigSource
from nas.runs.schema import read_targets
from nas.runs.spaces import load_genotype, load_space_of
from nas.runs.stages.load import read_config
from nas.runs.targets import load_tables
from search_spaces.darts import Darts
from search_spaces.nasbench201 import NASBench201

MAX_SECONDS = 2.0
MAX_BYTES = 500 * 2**20
TARGETS = read_targets({"macs": {"max": 1e9}}, ())
COST = {"name": "macs", "fixed": 10.0, "terms": [[{"layer1": [0]}, 3.0]]}


def of_config(read):
    return lambda path: read(ConfigSource((path,), (), ()))


def seal(path):
    """Gives a changed checkpoint the checksum of its content, so that what lies under it is read."""
    content = path.read_bytes()[: -checkpoint_io._TRAILER]
    path.write_bytes(content + checkpoint_io._MARK + hashlib.sha256(content).hexdigest().encode() + b"\n")


def list_in_manifest(path):
    """Gives the manifest the checksum of a changed file, so that what lies under it is read."""
    manifest = path.parent / "manifest.json"
    content = json.loads(manifest.read_text())
    content.pop("checksum", None)
    content["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))


READERS = {
    "genotype": ("run/genotype.json", Genotype.load),
    "summary": ("run/summary.json", lambda path: RunFolder(path.parent).read_summary()),
    "report's summary": ("run/summary.json", lambda path: read_content(path.parent)),
    "report's manifest": ("run/manifest.json", lambda path: read_content(path.parent)),
    "manifest": ("run/manifest.json", lambda path: RunFolder(path.parent).check_unchanged()),
    "launch": ("launch.json", lambda path: read_launch(path.parent, ())),
    "table": ("table.json", Table.load),
    "cost tables": ("cost_tables.json", lambda path: load_tables(TARGETS, path.parent)),
    "latencies": ("latency.json", latency._read),
    "export's manifest": ("run/export/manifest.json", lambda path: read_manifest(path.parent)),
    "export's config": ("run/export/config.json", lambda path: read_config(path.parent)),
    "configuration": ("run/config.yaml", of_config(load_experiment)),
    "retraining": ("run/config.yaml", of_config(partial(load_experiment, stage="retrain"))),
    "space of a configuration": ("run/config.yaml", of_config(load_space_of)),
    "DARTS notation": ("darts.txt", lambda path: load_genotype(path, Darts())),
    "NAS-Bench-201 notation": ("nasbench201.txt", lambda path: load_genotype(path, NASBench201())),
    "metrics": ("run/metrics.csv", csv_file.read_columns),
    "last metrics": ("run/metrics.csv", csv_file.last_row),
    "weights": ("run/export/model.safetensors", read_tensors),
    "checkpoint": ("run/checkpoints/last.ckpt", partial(checkpoint_io.load, fall_back=False)),
    "arrays": ("data.npz", lambda path: Npz(str(path)).prepare_data()),
}
WHOLE = [name for name, (place, _) in READERS.items() if place.endswith((".json", ".yaml"))]
"""Readers of documents, in which values are changed too."""
AFTER = {"checkpoint": seal, "export's config": list_in_manifest}

EDGES = ", ".join(["('skip_connect', 0), ('sep_conv_3x3', 1)"] * 4)
DARTS = f"Genotype(normal=[{EDGES}], normal_concat=range(2, 6), reduce=[{EDGES}], reduce_concat=range(2, 6))"
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"

TOKENS = [
    *("NaN", "-Infinity", "1e999", "1" + "0" * 400, "1" + "0" * 5000, "[" * 3000, '{"a":' * 3000, '"\\ud800"', "", "]"),
    *(
        '{"x": 1, "x": 2}',
        '!!int ""',
        '!!float "x"',
        '!!timestamp "9"',
        '!!binary "!"',
        "!!python/name:os.system",
        "&a [*a]",
    ),
    *(
        "*none",
        "? [a]",
        "0x" + "f" * 400,
        "1:2:3:4",
        "2001-99-99",
        "<<: 3",
        "{<<: [1]}",
        "'\x00'",
        "!!set {a}",
        "!!omap [3]",
    ),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../../x", "os.system", "a" * 5000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
WIDE = {num: json.dumps({f"k{key}": "x" for key in range(num)}) for num in (1000, 99_000)}
"""Objects of many keys. The larger ones take nearly all time, so they are put at each place once, and not at random."""
CHANGES = st.one_of(
    st.tuples(st.just("value"), VALUES),
    st.tuples(st.just("token"), st.sampled_from(TOKENS)),
    st.tuples(st.just("wide"), st.just(1000)),
    st.tuples(st.just("delete"), st.none()),
    st.tuples(st.just("twice"), st.none()),
)
CUTS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=4)
GROWTHS = [b"0" * 12_000_000, b"'" * 12_000_000, b"(" * 100_000, b"|" * 12_000_000, b"\n-" * 500_000]
GROWN = st.sampled_from([b""] * 45 + GROWTHS)  # few, because the size limits refuse most of them


def places(value, path=()):
    """Paths of all values in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(place for key, item in items for place in places(item, (*path, key)))]


def changed_document(content, changes, dump):
    """The text of a document after changes, each (where in it as a share, (kind, argument))."""
    raw = {}
    for number, (share, (kind, argument)) in enumerate(changes):
        found = places(content)
        if not found:
            break
        *parents, last = found[min(int(share * len(found)), len(found) - 1)]
        section = content
        for key in parents:
            section = section[key]
        if kind == "delete":
            del section[last]
        elif kind == "twice":
            raw[f"TWICE{number}"] = f"{last}"
            section[f"TWICE{number}" if isinstance(section, dict) else last] = 1
        elif kind in ("wide", "token"):
            raw[f"TOKEN{number}"] = argument if kind == "token" else WIDE[argument]
            section[last] = f"TOKEN{number}"
        else:
            section[last] = argument
    text = dump(content)
    for mark, token in raw.items():
        text = text.replace(f'"{mark}"', token if mark.startswith("TOKEN") else f'"{token}"').replace(mark, token)
    return text.encode("utf-8", "surrogatepass")


def changed_bytes(content, cuts, grown):
    for share, length, added in cuts:
        start = int(share * len(content))
        content = content[:start] + added + content[start + length :]
    return content + grown


@contextlib.contextmanager
def little_memory():
    """What takes more memory than `MAX_BYTES` ends in MemoryError."""
    former = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)


@pytest.fixture(scope="module")
def files(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    shutil.copytree(finished, folder / "run")
    trial = {"name": "seed0", "seed": 0, "settings": {"model.tau": "nas.tau.Exponential"}}
    content = {"format": "gumbel-nas/launch", "version": 1, "retrain": False, "num_baseline": 0, "trials": [trial]}
    (folder / "launch.json").write_text(json.dumps(content))
    table = Table({}, "accuracy", seconds=1.0)
    table.add({"a": "x"}, "test", 0, 0.5)
    table.save(folder / "table.json")
    (folder / "cost_tables.json").write_text(json.dumps({"macs": CostTable.from_json(COST).to_json()}))
    (folder / "latency.json").write_text(json.dumps({"key": 0.5}))
    (folder / "darts.txt").write_text(DARTS)
    (folder / "nasbench201.txt").write_text(CELL)
    parts = {"x_train": np.zeros((4, 2)), "y_train": np.arange(4), "x_test": np.zeros((2, 2)), "y_test": np.arange(2)}
    np.savez(folder / "data.npz", **parts)
    return folder


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(READERS)))
    if name in WHOLE and draw(st.integers(0, 3)):
        return name, draw(st.lists(st.tuples(st.floats(0, 1), CHANGES), min_size=1, max_size=3)), None
    return name, draw(CUTS), draw(GROWN)


@cache
def document(content):
    """What a JSON or YAML file has."""
    values = yaml.safe_load(content)
    values.pop("checksum", None)
    return values


def content_of(case, before):
    """The bytes of a made-up case, given those of the file as it was written."""
    name, changes, grown = case
    if grown is not None:
        return changed_bytes(before, changes, grown)
    is_yaml = READERS[name][0].endswith(".yaml")
    return changed_document(deepcopy(document(before)), changes, yaml.safe_dump if is_yaml else json.dumps)


def check(files, name, change):
    """One file is changed, read, and restored; gives what the refusal said."""
    place, read = READERS[name]
    path = files / place
    before = {file: file.read_bytes() for file in (path, path.parent / "manifest.json") if file.exists()}
    changed = change(before[path])
    said = ""
    try:
        path.write_bytes(changed)
        AFTER.get(name, lambda path: None)(path)
        begun = time.process_time()
        try:
            with little_memory():
                read(path)
        except (ValueError, OSError) as error:
            said = str(error)
            assert path.name in said or str(path.parent) in said, said
            assert "\n" not in said and len(said) < 2000, said
        assert time.process_time() - begun < MAX_SECONDS
    finally:
        for file, content in before.items():
            file.write_bytes(content)
    return said


def fuzz(files, num):
    # without shrinking: a case takes up to a second
    configured = settings(
        max_examples=num,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @configured
    @given(case=cases())
    def run(case):
        check(files, case[0], partial(content_of, case))

    run()


@pytest.mark.parametrize("name", READERS)
def test_what_was_written_is_read(files, name):
    place, read = READERS[name]
    read(files / place)


KEYS = ", ".join(f'"k{key}": 0' for key in range(99_000))
LONG = f'"{"a" * 20_000}"'
FOUND = {
    "a key twice among very many": ("export's manifest", f'{{{KEYS}, "k98999": 1}}', "duplicate key 'k98999'"),
    "a number that no float holds": ("cost tables", f'{{"macs": {{"fixed": 1{"0" * 400}}}}}', "'fixed' has a number"),
    "deep YAML": ("space of a configuration", "model: " + "[" * 3000, "nested too deeply"),
    "another kind of array file": ("arrays", None, "not an .npz file"),
    "a long value in a message": ("genotype", f'{{"format": "gumbel-nas/genotype", "version": {{{KEYS}}}}}', " ... "),
    "a long text in a list": ("configuration", f"data: [[{LONG}, 1]]\nseed_everything: [[{LONG}]]", " ... "),
    "a space that does not load": (
        "space of a configuration",
        "model: {space: {class_path: 1}}",
        "config.yaml: model.space",
    ),
    "no space": ("space of a configuration", "model: [3]", "model.space must be a class path"),
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.filterwarnings("ignore")
def test_what_was_found_stays_mended(files, name):
    reader, text, said = FOUND[name]
    assert said in check(files, reader, lambda before: b"other" + before[4:] if text is None else text.encode())


@pytest.mark.filterwarnings("ignore")
def test_made_up_files_are_read_or_refused(files):
    fuzz(files, 300)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_files_that_grew_are_read_or_refused(files, name):
    for grown in GROWTHS:
        check(files, name, lambda before, grown=grown: before + grown)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_very_many_keys_at_any_place_are_read_or_refused(files, name):
    num = len(places(document((files / READERS[name][0]).read_bytes())))
    for place in range(num):
        case = name, [((place + 0.5) / num, ("wide", 99_000))], None
        check(files, name, partial(content_of, case))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_very_many_made_up_files(files):
    fuzz(files, 20_000)
