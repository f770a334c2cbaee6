import json

import pytest


@pytest.fixture
def bench_taps(load_file, monkeypatch):
    module = load_file("scripts/bench_taps.py")
    monkeypatch.setattr(module, "pin", lambda threads: None)
    return module


@pytest.mark.parametrize(("shape", "num_taps"), [((2, 3, 40), 11), ((2, 3, 11, 12), 41)])
def test_contestants_compute_the_same(bench_taps, shape, num_taps):
    for function in (bench_taps.tap_conv, bench_taps.tap_conv_reference):
        assert bench_taps.difference(bench_taps.merged_by(function, shape), shape) <= 1e-12
    seen = []
    bench_taps.merged_by(lambda x, weights, offsets: seen.append((weights.shape, len(offsets))), shape)(
        bench_taps.inputs_of(shape)
    )
    assert seen == [((3, num_taps), num_taps)]


def test_what_is_kept_counts_each_tensor_once(bench_taps):
    inputs = bench_taps.inputs_of((4, 8, 256))

    def kept(function):
        return bench_taps.saved_bytes(lambda: function(inputs), ())

    merged = kept(bench_taps.merged_by(bench_taps.tap_conv, (4, 8, 256)))
    apart = kept(bench_taps.five_convolutions)
    assert inputs.x.nbytes <= merged < 2 * inputs.x.nbytes and 6 * inputs.x.nbytes <= apart < 7 * inputs.x.nbytes


def test_prints_a_table_and_json(bench_taps, capsys, monkeypatch):
    monkeypatch.setattr(bench_taps, "CACHE_BYTES", 0)
    words = ["--rounds", "1", "--shape", "2,3,40"]
    assert bench_taps.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    names = ["native", "one F.conv", "five convolutions", "copies"]
    assert [row["contestant"] for row in result["rows"]] == names
    assert result["rows"][0]["ratio"] == 1 and result["backend"] and result["threads"]
    assert bench_taps.main(words) == 0
    assert "| (2, 3, 40) | native |" in capsys.readouterr().out
