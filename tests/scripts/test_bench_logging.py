import json

import pytest

from nas.callbacks import Dashboard


def test_parts_are_less_than_the_whole(load_file, config, capsys):
    before = Dashboard.on_train_epoch_end
    module = load_file("scripts/bench_logging.py")
    assert module.main(["--config", str(config()), "--trainer.num_images", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["scalars_seconds"] < result["search_seconds"]
    assert 0 < result["pictures_seconds"] < result["search_seconds"]
    # a quotient times its divisor, in double
    assert result["scalars_share"] * result["search_seconds"] == pytest.approx(result["scalars_seconds"], rel=1e-14)
    assert Dashboard.on_train_epoch_end is before  # nothing stays wrapped
