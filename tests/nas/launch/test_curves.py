"""Curves of methods: which values count."""

import pytest
from made_up_launch import write_launch

from nas.launch.curves import read_curves


def test_values_that_are_not_finite_do_not_count(tmp_path):
    plan, trials, _ = write_launch(tmp_path / "all", {"a": {}}, [0, 1])
    before = read_curves(plan, trials)["arch/loss"]["a"]
    path = plan.run(trials[0]).metrics_csv
    head, *lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[head.split(",").index("arch/loss")] = "nan"
    path.write_text("\n".join([head, *lines[:-1], ",".join(cells)]) + "\n")
    other = plan.run(trials[1]).metrics_csv.read_text().splitlines()[-1].split(",")[head.split(",").index("arch/loss")]
    *rest, last = read_curves(plan, trials)["arch/loss"]["a"]
    assert rest == before[:-1] and last == (6, pytest.approx(float(other)), 0.0, 1)
    assert before[-1].num == 2 and before[0].epoch == 2  # alpha was frozen in the first epoch
