"""TensorBoard pages of a launch: read back by TensorBoard's own reader, against the metrics files."""

import csv
import pickle
import statistics
import time
from types import SimpleNamespace

import pytest
from made_up_launch import write_launch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from nas.launch import local, pages
from nas.launch.curves import read_curves
from nas.launch.launch import read_summary
from nas.launch.pages import MAX_RUNS, Refreshed, write_pages
from nas.launch.trials import Plan, make_trials
from nas.report.tensorboard import pages_of


def read(path):
    return EventAccumulator(str(path)).Reload()


def parameters(events):
    (found,) = (
        plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        for tag, content in events.PluginTagToContent("hparams").items()
        if "session_start" in tag
    )
    return {key: value.string_value or value.number_value for key, value in found.items()}


def charts(events):
    (found,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(found.tensor_proto.string_val[0])
    return [chart for category in layout.category for chart in category.chart]


def written(tmp_path, methods, seeds, **options):
    plan, trials, _ = write_launch(tmp_path / "all", {name: {} for name in methods}, seeds, **options)
    summary = read_summary(plan, trials, {}, None)
    write_pages(tmp_path / "all/dashboard", summary, read_curves(plan, trials))
    return plan, trials, summary, tmp_path / "all/dashboard"


def test_a_method_is_a_run_whose_curve_is_the_mean_of_its_trials(tmp_path):
    plan, trials, _, pages = written(tmp_path, ["b", "a"], [0, 1, 2], unfinished=["a_seed2"])
    assert sorted(path.name for path in pages.iterdir()) == ["01 b", "02 a", "trials"]
    for name, folder in (("b", "01 b"), ("a", "02 a")):
        events = read(pages / folder)
        files = [plan.run(trial).metrics_csv for trial in trials if trial.method == name]
        tables = [list(csv.DictReader(path.read_text().splitlines())) for path in files]
        for tag in ("arch/accuracy", "weight/loss", "search/tau"):
            values = [[float(table[i][tag]) for table in tables] for i in range(6) if tables[0][i][tag]]
            points = {suffix: events.Scalars(suffix) for suffix in (tag, f"limits/{tag}/lower", f"limits/{tag}/upper")}
            means = [statistics.fmean(row) for row in values]
            spreads = [statistics.stdev(row) for row in values]
            # TensorBoard stores float32
            assert [point.value for point in points[tag]] == pytest.approx(means, rel=1e-6)
            assert [point.step for point in points[tag]] == list(range(7 - len(values), 7))
            for sign, limit in ((-1, "lower"), (1, "upper")):
                wanted = [m + sign * s for m, s in zip(means, spreads, strict=True)]
                assert [p.value for p in points[f"limits/{tag}/{limit}"]] == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    drawn = charts(read(pages / "01 b"))
    assert drawn[-1].title == "arch/accuracy" and len(drawn) == 6
    (series,) = drawn[-1].margin.series
    tags = (series.value, series.lower, series.upper)
    assert tags == ("arch/accuracy", "limits/arch/accuracy/lower", "limits/arch/accuracy/upper")


def test_every_row_of_hparams_has_a_result(tmp_path):
    plan, trials, summary, pages = written(tmp_path, ["b", "a"], [0, 1, 2], unfinished=["a_seed2"])
    rows = [row for row in summary["trials"] if "test" in row]
    assert sorted(path.name for path in (pages / "trials").iterdir()) == sorted(row["name"] for row in rows)
    assert len(rows) == 5
    num_files = len(list(pages.rglob("events*")))
    write_pages(pages, summary, read_curves(plan, trials))
    assert len(list(pages.rglob("events*"))) == num_files  # old files are removed
    for row in rows:
        events = read(pages / "trials" / row["name"])
        assert parameters(events) == {"method": row["method"], "seed": row["seed"]}
        figures = {f"launch/{key}": row[key] for key in ("test", "arch", "search_seconds")}
        found = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
        assert found == pytest.approx(figures)


def test_many_methods_share_charts_by_eight_and_many_trials_have_a_row_a_method(tmp_path):
    methods = [f"m{i}" for i in range(9)]
    _, _, summary, pages = written(tmp_path, methods, range(5), num_epochs=2)
    assert len(list(pages.iterdir())) == 9 <= MAX_RUNS < 45 + 9  # 45 trials would leave every run unselected
    events = [read(pages / f"{i + 1:02} {name}") for i, name in enumerate(methods)]
    per_chart = {}
    for chart in charts(events[0]):
        per_chart[chart.title] = [i for i in range(9) if chart.margin.series[0].value in events[i].Tags()["scalars"]]
    assert per_chart["arch/loss"] == list(range(8)) and per_chart["arch/loss (2)"] == [8]
    assert all(len(found) <= 8 for found in per_chart.values())
    assert parameters(events[3]) == {"method": "m3", "seeds": 5}
    assert events[3].Scalars("launch/test")[0].value == pytest.approx(summary["settings"][3]["mean"])


def test_a_chart_without_curves_is_left_out(tmp_path):
    plan, trials, summary, _ = written(tmp_path, [f"m{i}" for i in range(9)], [0], num_epochs=1)
    curves = read_curves(plan, trials)
    del curves["weight/loss"]["m8"]
    write_pages(tmp_path / "again", summary, curves)
    titles = [chart.title for chart in charts(read(tmp_path / "again/01 m0"))]
    assert "weight/loss" in titles and "search/tau (2)" in titles and "weight/loss (2)" not in titles


def test_as_many_trials_as_tensorboard_selects_have_a_row_each(tmp_path):
    *_, folder = written(tmp_path, [f"m{i}" for i in range(4)], range(9), num_epochs=1)
    assert len(list((folder / "trials").iterdir())) + 4 == MAX_RUNS


def test_pages_are_written_while_searches_run_and_a_failure_only_warns(monkeypatch):
    now, states, written = [0.0], [], []
    monkeypatch.setattr(pages, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def write():
        now[0] += 1
        written.append(now[0])

    refreshed = Refreshed(lambda trial, state: states.append(state), write)
    for state in ("running", "finished", "failed", "finished"):
        refreshed(None, state)
    assert states == ["running", "finished", "failed", "finished"] and written == [1.0]
    for now[0] in (20.9, 21.0):  # a write of 1 s allows the next one after 20 s
        refreshed(None, "finished")
    assert written == [1.0, 22.0]
    now[0] = 99.0
    refreshed(None, "running")
    assert len(written) == 2

    def full():
        raise OSError("no space left")

    with pytest.warns(UserWarning, match="cannot be written: .*no space left"):
        Refreshed(lambda trial, state: None, full)(None, "finished")


def test_states_can_be_copied_as_ray_copies_them():
    copy = pickle.loads(pickle.dumps(Refreshed(print, print)))
    assert isinstance(copy, Refreshed) and copy.on_event is print


def test_states_of_parallel_searches_come_one_at_a_time(tmp_path, monkeypatch):
    """Each search ends at once; eight threads would overlap in a receiver that takes 5 ms."""
    monkeypatch.setattr(local, "run_trial", lambda *_: None)
    inside, most, states = [], [], []

    def receive(trial, state):
        inside.append(trial)
        most.append(len(inside))
        time.sleep(0.005)
        states.append((trial.name, state))
        inside.remove(trial)

    trials = make_trials(range(16), {})
    assert local.Local(8, 0).run(Plan(tmp_path), trials, receive) == {}
    assert sorted(states) == sorted((trial.name, state) for trial in trials for state in ("running", "finished"))
    assert max(most) == 1


def test_the_dashboard_of_a_launch_opens_on_its_own_page(tmp_path):
    *_, pages = written(tmp_path, ["a"], [0])
    assert pages_of(tmp_path / "all") == (pages, "#custom_scalars")
    assert pages_of(tmp_path / "all/trials") == (tmp_path / "all/trials", "")
    assert pages_of(tmp_path) == (tmp_path, "")
