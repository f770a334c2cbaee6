"""Going on with another number of epochs."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nas.training.lr_schedules import make_lr_scheduler, rate_share
from nas.training.schedules import Plan


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 100))
def test_a_changed_plan_is_continuous_rises_and_ends_at_1(total, step, other):
    plan = Plan(total)
    assert [plan(i) for i in range(total + 1)] == [min(1.0, i / total) for i in range(total + 1)]
    changed = plan.changed(step + other, step)
    assert changed(step) == pytest.approx(plan(step))  # rounding of one product
    values = [changed(i) for i in range(step, step + other + 1)]
    assert values == sorted(values) and values[-1] == pytest.approx(1.0)
    assert plan.changed(total, step) is plan


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle"])
def test_shares_are_those_of_torchs_schedulers(name):
    num_steps = 1000
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make_lr_scheduler(name, optimizer, num_steps)
    for step in range(num_steps):
        # OneCycleLR counts to num_steps - 1: one step apart, of which the steepest is pi / 2 / 300 of the rate
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            0.5 * rate_share(name, step / num_steps), abs=0.5 * 0.006
        )
        optimizer.step()
        if step < num_steps - 1:
            scheduler.step()


@pytest.fixture
def rates(run_cli, config):
    """Learning rates and tau of each epoch of a search whose number of epochs is changed after it was stopped."""

    def search(schedule, first, stop_after, then):
        path = config({"trainer.max_epochs": first, "model.weight_schedule": schedule, "model.warmup_epochs": 0})
        assert run_cli("search", "--config", path, "--out", "run").code == 0
        for name in ("manifest.json", "summary.json", "genotype.json"):
            Path("run", name).unlink()
        values = yaml.safe_load(Path("run/config.yaml").read_text())
        values["trainer"]["max_epochs"] = then
        Path("run/config.yaml").write_text(yaml.safe_dump(values))
        with pytest.warns(UserWarning, match=r"began with other settings|already ended"):
            assert run_cli("search", "--resume", "run", "--force").code == 0
        rows = list(csv.DictReader(Path("run/metrics.csv").read_text().splitlines()))
        return [float(row["lr/weight"]) for row in rows], [float(row["search/tau"]) for row in rows]

    return search


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_search_goes_on_for_more_epochs(rates, schedule):
    lr, tau = rates(schedule, 2, 2, 4)
    assert len(lr) == 4 and lr[-1] == pytest.approx(0.0, abs=1e-6) and lr[2] <= lr[1] + 1e-9
    assert tau[-1] == pytest.approx(0.2) and tau == sorted(tau, reverse=True)


def test_a_finished_run_with_another_configuration_says_so(run_cli, original, tmp_path):
    import shutil

    shutil.copytree(original, tmp_path / "run")
    assert run_cli("search", "--resume", tmp_path / "run").code == 0
    path = tmp_path / "run" / "config.yaml"
    path.write_text(path.read_text().replace("max_epochs: 3", "max_epochs: 5"))
    assert "config.yaml was changed after the run finished" in run_cli("search", "--resume", tmp_path / "run").complaint
