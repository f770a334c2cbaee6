import json

import pytest
import torch


@pytest.fixture
def bench_mix(load_file, monkeypatch):
    module = load_file("scripts/bench_mix.py")
    monkeypatch.setattr(module, "pin", lambda threads: None)
    return module


def test_contestants_compute_the_same(bench_mix):
    outputs, weights, _ = bench_mix.inputs_of((3, 4), 5, 1, torch.float64)[0]
    stacked = bench_mix.einsum(outputs[0], weights[0])
    torch.testing.assert_close(stacked, bench_mix.mix_reference(outputs[0], weights[0]))
    torch.testing.assert_close(stacked, bench_mix.mix(outputs[0], weights[0]))


@pytest.mark.parametrize(("k", "depth"), [(5, 1), (8, 1), (5, 8)])
def test_copies_move_what_is_read_and_written_at_least(bench_mix, k, depth, monkeypatch):
    moved = []
    copy = torch.Tensor.copy_

    def counted(self, source):
        moved.append(2 * self.numel())
        return copy(self, source)

    monkeypatch.setattr(torch.Tensor, "copy_", counted)
    bench_mix.copies_of((10,), k, depth, torch.float32)(([], [], torch.empty(0)))
    # a mix reads K, then K + 1; it writes 1, then K
    assert sum(moved) == 10 * depth * (k + 1 + k + 1 + k)


def test_inputs_rotate_past_the_caches(bench_mix):
    sets = bench_mix.inputs_of((64, 1000), 3, 8, torch.float32)
    assert sum(t.numel() * 4 for outputs, _, _ in sets for row in outputs for t in row) > bench_mix.CACHE_BYTES / 2
    assert [len(row) for row in sets[0][0]] == [3, *[2] * 7]


def test_prints_a_table_and_json(bench_mix, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    words = ["--rounds", "1", "--shape", "8", "--k", "3", "--depth", "2"]
    assert bench_mix.main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["contestant"] for row in result["rows"]] == [
        "native",
        "eager",
        "stack + einsum",
        "torch.compile",
        "copies",
    ]
    assert result["rows"][0]["ratio"] == 1 and result["backend"] and result["threads"]
    assert bench_mix.main(words) == 0
    assert "| (8), 3, 2 | native |" in capsys.readouterr().out
