"""Reports of launches: figures against an independent reading of the files, LaTeX by a parser, and what is refused."""

import csv
import json
import re
import statistics
from collections import Counter
from html.parser import HTMLParser

import pytest
from made_up_launch import results, write_launch
from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

from nas.benchmark import Table
from nas.io import files
from nas.io.errors import UsageError
from nas.io.latex import latex_table
from nas.report.launch import random_curve, write_launch_report

METHODS = {"own": {}, "a_b": {"model.tau": "nas.tau.Linear"}}


@pytest.fixture
def folder(tmp_path):
    write_launch(tmp_path / "all", METHODS, [0, 1, 2], unfinished=["own_seed2"])
    return tmp_path / "all"


class Cells(HTMLParser):
    """The rows of all tables, as lists of text."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside, self.num_pictures = [], False, 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.num_pictures += tag == "svg"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_the_numbers_are_those_of_the_trials(folder):
    rows = list(csv.DictReader(write_launch_report(folder, "csv", None).read_text().splitlines()))
    found = results(folder)
    assert [row["method"] for row in rows] == list(found) == ["own", "a_b"]
    for row in rows:
        values = list(found[row["method"]].values())
        assert int(row["num_finished"]) == len(values) < int(row["num"]) + 1
        assert float(row["mean"]) == statistics.fmean(values) and float(row["std"]) == statistics.stdev(values)
    first, second = found.values()
    differences = [second[seed] - first[seed] for seed in first]
    assert float(rows[1]["paired_mean"]) == statistics.fmean(differences) and int(rows[1]["paired_num"]) == 2


def test_all_formats_have_the_same_table(folder):
    parsed = Cells(write_launch_report(folder, "html", None).read_text())
    lines = write_launch_report(folder, "md", None).read_text().splitlines()
    markdown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    latex = write_launch_report(folder, "latex", None).read_text()
    (environment,) = (
        node
        for node in LatexWalker(latex, tolerant_parsing=False).get_latex_nodes()[0]
        if isinstance(node, LatexEnvironmentNode)
    )
    assert environment.environmentname == "tabular"
    assert latex.startswith(f"\\begin{{tabular}}{{l{'r' * (len(markdown[0]) - 1)}}}\n")
    body = latex[latex.index("\\toprule") : latex.index("\\bottomrule")]
    assert {line.count("&") for line in body.splitlines() if "&" in line} == {len(markdown[0]) - 1}
    spoken = LatexNodes2Text().latex_to_text(body)
    results, costs = parsed.rows[:3], parsed.rows[3:6]  # two tables of the same methods
    for row, cost, twin in zip(results, costs, [markdown[0], *markdown[2:4]], strict=True):
        assert sorted([*row, *cost[1:]]) == sorted(twin) and cost[0] == row[0]
        assert row == [cell for cell in twin if cell in row]
        assert all(cell in spoken for cell in twin)
    assert parsed.rows[1][:2] == ["own", "2 of 3"] and parsed.rows[0][2] == "test accuracy"


def test_choices_and_their_agreement_are_those_of_the_genotypes(folder):
    parsed = Cells(write_launch_report(folder, "html", None).read_text())
    rows = [row for row in parsed.rows if row and row[0].startswith("layer")]
    assert len(rows) == 6
    heads = [row[2:] for row in parsed.rows if row and row[0] == "choice"]
    assert heads == [[f"seed {seed}" for seed in found] for found in results(folder).values()]
    for i, method in enumerate(results(folder)):
        paths = sorted((folder / "trials").glob(f"{method}_seed*/retrain/summary.json"))
        genotypes = [json.loads(path.read_text())["genotype"] for path in paths]
        for name, share, *labels in rows[3 * i : 3 * i + 3]:
            assert labels == [genotype[name] for genotype in genotypes]
            assert share == f"{max(Counter(labels).values()) / len(labels):.0%}"
    assert ["not finished", "own_seed2"] in parsed.rows
    assert ["a_b", "model.tau=nas.tau.Linear"] in parsed.rows


def test_special_signs_survive_in_latex():
    text = latex_table(["a_b", "50% & more"], [["~^\\{}$#<>", "0.1 ± 0.2"]])
    LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    rows = [line.removesuffix(r" \\") for line in text.splitlines() if "&" in line]
    spoken = [[LatexNodes2Text().latex_to_text(cell).strip() for cell in re.split(r" (?<!\\)& ", row)] for row in rows]
    spoken = [[cell.replace("\u02c6", "^") for cell in row] for row in spoken]  # the parser has its own sign
    assert spoken == [["a_b", "50% & more"], ["~^\\{}$#<>", "0.1 ± 0.2"]]


def test_hyphens_stay_hyphens_and_minus_signs_are_no_hyphens_in_latex():
    (row,) = latex_table(["a"], [["x---y--z", "-0.5 ± 0.1", "a\n\nb", "1e-05"]]).splitlines()[4:5]
    cells = row.removesuffix(r" \\").split(" & ")
    assert cells == ["x-{}-{}-y-{}-z", r"$-$0.5 $\pm$ 0.1", "a b", "1e-05"]


def test_trials_of_different_versions_are_named(folder):
    manifest = folder / "trials/a_b_seed1/manifest.json"
    manifest.write_text(json.dumps({"versions": {"torch": "1"}}))
    text = write_launch_report(folder, "md", None).read_text()
    assert "different versions of torch: 2 in 4, for example own_seed0; 1 in 1, for example a_b_seed1" in text


def test_what_has_no_report_is_refused_in_one_line(tmp_path, folder, run_cli, monkeypatch):
    write_launch(tmp_path / "none", METHODS, [0], unfinished=["own_seed0", "a_b_seed0"])
    for words, message in [
        (("--launch", tmp_path / "none"), "no trial is finished"),
        (("--launch", tmp_path), "not the folder of a launch"),
        (("--run", tmp_path, "--format", "latex"), "--format latex needs --launch"),
        ((), "--run --launch"),
        (("--launch", folder, "--out", tmp_path / "nowhere/x.html"), "cannot be written"),
    ]:
        answer = run_cli("report", *map(str, words))
        assert answer.code == 2 and message in answer.complaint, words
    (folder / "trials/own_seed0/metrics.csv").write_text("step,epoch\nx,y\n")
    answer = run_cli("report", "--launch", str(folder))
    assert answer.code == 1 and "own_seed0/metrics.csv: damaged" in answer.complaint
    assert not (folder / "report.html").exists()

    def killed(*_):
        raise KeyboardInterrupt

    (folder / "report.md").write_text("the former report")
    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_launch_report(folder, "md", None)
    assert (folder / "report.md").read_text() == "the former report"


@pytest.mark.parametrize(
    ("num_methods", "num_seeds", "num_epochs"), [(9, 2, 3), pytest.param(20, 10, 100, marks=pytest.mark.slow)]
)
def test_charts_have_at_most_eight_lines_and_the_file_is_small(tmp_path, num_methods, num_seeds, num_epochs):
    methods = {f"method{i:02}": {} for i in range(num_methods)}
    write_launch(tmp_path / "all", methods, range(num_seeds), num_epochs=num_epochs)
    path = write_launch_report(tmp_path / "all", "html", None)
    assert path.stat().st_size < 5_000_000
    pictures = [picture.partition("</svg>")[0] for picture in path.read_text().split("<svg")[1:]]
    named = [{name for name in methods if f">{name}<" in picture} for picture in pictures]
    assert len(pictures) == 7 * -(-num_methods // 8)  # six curves, and the costs
    assert all(0 < len(found) <= 8 for found in named) and set.union(*named) == set(methods)


def test_a_damaged_launch_is_named(folder):
    (folder / "launch.json").write_text("{}")
    with pytest.raises(UsageError, match=r"launch\.json"):
        write_launch_report(folder, "html", None)


def test_the_curve_of_random_search_ends_at_the_best_in_validation():
    table = Table({}, "accuracy")
    for i, (validation, test) in enumerate([(0.1, 0.4), (0.2, 0.9), (0.3, 0.8)]):
        table.add({"x": str(i)}, "validation", 0, validation)
        table.add({"x": str(i)}, "test", 0, test)
    table.add({"x": "9"}, "validation", 0, 1.0)  # without a test score
    # pairs: (0, 1) finds 0.9, (0, 2) and (1, 2) find 0.8
    means = [(0.4 + 0.9 + 0.8) / 3, (0.9 + 0.8 + 0.8) / 3, 0.8]
    assert random_curve(table) == [(num, pytest.approx(mean)) for num, mean in enumerate(means, 1)]


def change(path, **values):
    content = json.loads(path.read_text())
    content.pop("checksum")
    path.write_text(json.dumps(content | values))


def test_a_metric_that_is_not_finite_is_named(folder):
    for name, stage in (("own_seed0", "retrain/"), ("a_b_seed1", "")):
        metric = {"name": "accuracy", "value": None, "split": "arch"}  # JSON has no NaN
        change(folder / f"trials/{name}/{stage}summary.json", metric=metric)
    text = write_launch_report(folder, "md", None).read_text()
    assert "| the test accuracy is not a finite number | own_seed0 |" in text
    assert "| own | 1 of 3 |" in text and "| a_b | 3 |" in text  # the test metric counts


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("summary.json", {"metric": 3}, "damaged"),
        ("summary.json", {"metric": {"name": "accuracy", "value": "0.5"}}, "damaged: arch must be a number, got '0.5'"),
        ("summary.json", {"search_seconds": None}, "damaged: search_seconds must be a number"),
        ("summary.json", {"cost": {"macs": [1]}}, "damaged: macs must be a number"),
        ("summary.json", {"genotype": {"layer0": 3}}, "choice 'layer0' must be a label"),
        ("summary.json", {"genotype": ["x"]}, "choices must be an object"),
        ("retrain/summary.json", {"train_seconds": True}, "damaged: train_seconds must be a number"),
        ("../../summary.json", {"failed": ["x"]}, "damaged: failed or baseline is not what a launch writes"),
        ("../../summary.json", {"baseline": {"num": 3}}, "damaged: failed or baseline is not what a launch writes"),
        ("../../latencies.json", {"latency_ms": {"own_seed0": "1"}}, "latency_ms must map names"),
        ("../../launch.json", {"trainings": True}, "trainings must be a number"),
    ],
)
def test_a_damaged_file_is_named_with_the_reason(folder, name, values, message):
    path = (folder / "trials/own_seed0" / name).resolve()
    if not path.exists():
        path.write_text(json.dumps({"format": "gumbel-nas/latencies", "version": 1, "checksum": ""}))
        if path.name == "summary.json":
            path.write_text(json.dumps({"failed": {}, "baseline": None, "checksum": ""}))
    change(path, **values)
    with pytest.raises(UsageError) as caught:
        write_launch_report(folder, "html", None)
    assert message in str(caught.value) and str(path.relative_to(folder)) in str(caught.value)
    assert not (folder / "report.html").exists()


def test_versions_of_another_kind_are_no_versions(folder):
    (folder / "trials/own_seed0/manifest.json").write_text('{"versions": ["torch"]}')
    assert write_launch_report(folder, "html", None).exists()


def test_a_trial_that_failed_and_was_finished_by_hand_has_a_result(folder):
    about = {"failed": {"own_seed0": "the power failed", "own_seed2": "the power failed"}, "baseline": None}
    (folder / "summary.json").write_text(json.dumps(about))
    parsed = Cells(write_launch_report(folder, "html", None).read_text())
    assert ["the power failed", "own_seed2"] in parsed.rows


def test_metrics_without_epochs_are_damaged(folder):
    (folder / "trials/own_seed0/metrics.csv").write_text("step,arch/loss\n1,0.5\n")
    with pytest.raises(ValueError, match=r"own_seed0/metrics\.csv: damaged: epoch must be a whole number"):
        write_launch_report(folder, "html", None)
