"""Files that somebody else made: they give no flags and no paths, links are not followed, and markup is shown as text."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from nas.cli.launch_command import show
from nas.data.vision import load_image
from nas.io.files import open_own
from nas.io.parent import python_command
from nas.report.tensorboard import command

RESUME = ["search", "--resume", "run"]

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
    ({"trial": {"settings": {"model.guards": "precious.txt"}}}, "model.guards is set key by key"),
    ({"trial": {"settings": {"trainer": "precious.txt"}}}, "trainer is set key by key"),
    ({"trials": "missing"}, "trials must be a list"),
    ({"retrain": "yes"}, "retrain must be a bool"),
    ({"num_baseline": "missing"}, "num_baseline must be a int"),
    ({"version": 2}, "version 2 is not supported"),
]


@pytest.mark.parametrize(("changes", "said"), LAUNCHES)
def test_a_launch_written_by_hand_gives_no_flags_and_no_paths(folder, changes, said):
    folder.write_launch(**changes)
    folder.refuse("launch", ["launch", "--resume", "launch", "--max-failures", "0"], said)


def test_set_gives_no_flags(folder):
    words = ["launch", "--config", "run/config.yaml", "--seeds", "0", "--set", "out=precious", "--out", "other"]
    folder.refuse("other", words, "--set: 'out' is not a key")


LINKS = [
    ("run/.lock", "precious.txt", RESUME),
    ("run/metrics.csv", "precious.txt", RESUME),
    ("run/system.csv", "precious.txt", RESUME),
    ("run/checkpoints", "precious", RESUME),
    ("run/events.out.tfevents.1.host.1.0", "precious.txt", RESUME),
    ("run/retrain", "precious", ["retrain", "--run", "run"]),
    ("launch/.lock", "precious.txt", ["launch", "--resume", "launch"]),
    ("launch/trials", "precious", ["launch", "--resume", "launch"]),
    ("launch/logs", "precious", ["launch", "--resume", "launch"]),
    ("launch/baseline", "precious", ["launch", "--resume", "launch"]),
]


@pytest.mark.parametrize(("link", "target", "words"), LINKS, ids=[case[0] for case in LINKS])
def test_a_link_where_a_file_should_be_is_refused(folder, link, target, words):
    if words is RESUME:
        folder.unfinish()
    path = folder / link
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(folder / target)
    folder.refuse(link.split("/")[0], words, f"{link}: this is a link")


def test_a_report_replaces_a_link_and_leaves_what_it_points_to(folder):
    (folder / "run" / "report.html").symlink_to(folder / "precious.txt")
    before = folder.outside("run")
    assert folder.nas("report", "--run", "run").code == 0
    assert folder.outside("run") == before and not (folder / "run" / "report.html").is_symlink()


def test_an_export_does_not_follow_a_link(folder):
    shutil.rmtree(folder / "run" / "export")
    (folder / "run" / "export").symlink_to(folder / "precious")
    folder.refuse("run", ["export", "--run", "run"], "exists")


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "genotype.json"])
def test_a_pipe_or_device_is_not_read(folder, name):
    (folder / "run" / name).unlink()
    os.mkfifo(folder / "run" / name)
    folder.refuse("run", ["report", "--run", "run", "--format", "md"], name.split(".")[0])


def test_cost_tables_hold_numbers_alone(folder):
    folder.change_config("run", "model/cost", {"macs": {"max": 1e9}})
    table = {"name": "macs", "fixed": "__import__('os')", "terms": [[{"layer1": 3}, []]]}
    (folder / "run" / "cost_tables.json").write_text(json.dumps({"macs": table}))
    folder.refuse("run", ["derive", "--run", "run"], "cost_tables.json: damaged")


MARKUP = "<img src=x onerror=alert(1)>|`[x](javascript:alert(1))"


@pytest.mark.parametrize("form", ["html", "md"])
def test_reports_show_markup_as_text(folder, form):
    run = folder / "run"
    metric = {"name": MARKUP, "value": 1.0, "split": MARKUP}
    folder.change_json("run/summary.json", metric=metric, cost={MARKUP: 1}, device=MARKUP)
    folder.change_json("run/manifest.json", versions={MARKUP: MARKUP}, git_commit=MARKUP)
    with open(run / "config.yaml", "a") as file:
        file.write("# ```\n# <script>alert(1)</script>\n")
    text = (run / "metrics.csv").read_text().replace("arch/loss", "arch/$\\frac{<b>")
    (run / "metrics.csv").write_text(text)
    assert folder.nas("report", "--run", "run", "--format", form).code == 0
    report = (run / f"report.{form}").read_text()
    prose = re.sub(r"(?ms)^(`{3,})\w+\n.*?^\1$", "", report)
    assert "<img" not in prose and "<script" not in prose
    assert form == "html" or not re.search(r"(?<!\\)\]\(javascript", prose)
    rows = [line for line in prose.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 4) for line in rows)  # two or three columns


def test_commands_that_are_started_import_nothing_from_the_working_directory(folder):
    for name in ("yaml.py", "argparse.py", "nas.py", "tensorboard.py"):
        shutil.copy(folder / "evil_mod.py", folder / name)
    for words in (python_command("nas.cli", "entry", "--version"), command(folder / "run", 0)):
        assert words[0] == sys.executable and "-m" not in words
    started = python_command("nas.cli", "entry", "search", "--config", "none.yaml")
    done = subprocess.run(started, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("nas: none.yaml: "), done.stderr
    folder.check_no_mark()


@pytest.mark.parametrize("kind", ["pipe", "hard link"])
@pytest.mark.parametrize("name", ["run/metrics.csv", "run/system.csv", "launch/logs/seed0.txt"])
def test_only_files_of_one_name_are_extended(folder, kind, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        os.link(folder / "precious.txt", path)
    before = folder.outside("nowhere")
    with pytest.raises(OSError, match=r"not a regular file with one name|No such device"):
        os.close(open_own(path, os.O_WRONLY | os.O_APPEND))
    assert folder.outside("nowhere") == before


def test_a_lock_that_is_another_file_too_stays_as_it_is(folder):
    os.link(folder / "precious.txt", folder / "launch" / ".lock")
    folder.refuse("launch", ["launch", "--resume", "launch"], "cannot be written")


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("key", ["model/cost", "model/space/init_args/dilations", "retrain/space", "data/init_args"])
def test_yaml_inside_of_a_text_does_not_grow(folder, key):
    folder.change_config("run", key, BOMB)
    folder.refuse("run", ["profile", "--config", "run/config.yaml"], ".")


def test_messages_hold_no_control_characters(folder):
    folder.change_config("run", "trainer/max_epochs", "\x1b]0;owned\x07 \u202e")
    answer = folder.nas("profile", "--config", "run/config.yaml")
    assert "owned" in answer.complaint and answer.complaint.isprintable()


def test_settings_are_shown_as_text(capsys):
    row = {"method": "tau=[/x]\x1b[31m", "settings": {}, "num": 1, "num_finished": 0, "part": "arch"}
    show({"settings": [row], "baseline": None, "launch": "launch", "notes": ["\x1b[31m"]})
    shown = capsys.readouterr().out
    assert "[/x]" in shown and "\x1b" not in shown


def test_a_folder_of_images_starts_no_program(folder, monkeypatch):
    (folder / "gs").write_text("#!/bin/sh\ntouch touched\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder.path}:{os.environ['PATH']}")
    image = folder / "images" / "train" / "a" / "0.png"
    image.parent.mkdir(parents=True)
    image.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match="not an image"):
        load_image(str(image))
    folder.check_no_mark()


def test_a_damaged_summary_is_named(folder):
    folder.change_json("run/summary.json", cost=[1, 2])
    folder.refuse("run", ["report", "--run", "run"], "summary.json or manifest.json is damaged")
