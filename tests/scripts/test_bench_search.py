import json

import pytest


@pytest.mark.parametrize("hard", [False, True])
def test_the_plain_loop_computes_the_losses_of_the_search(load_file, config, capsys, hard):
    module = load_file("scripts/bench_search.py")
    path = config({"model.relaxation": {"class_path": "nas.relaxations.GumbelSoftmax", "init_args": {"hard": hard}}})
    words = ["--config", str(path), "--rounds", "1", "--json"]
    assert module.main([*words, "--model.tau.init_args.start", "3.0", "--model.tau.init_args.end", "0.5"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["difference"] < 1e-5  # sums of losses in single precision
    assert result["search_seconds"] > 0 and result["loop_seconds"] > 0
    assert result["ratio"] == pytest.approx(result["search_seconds"] / result["loop_seconds"])
