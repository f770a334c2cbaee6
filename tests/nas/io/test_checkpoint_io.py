import os
import random

import pytest
import torch

from nas.io import checkpoint_io
from nas.io.checkpoint_io import VerifiedCheckpointIO


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in (1, 2):
        checkpoint_io.save({"step": step, "w": torch.arange(1000.0) + step}, path)
    return path


def test_round_trip_and_previous(saved):
    assert checkpoint_io.load(saved)["step"] == 2
    assert torch.load(saved, weights_only=True)["step"] == 2  # plain torch reads it too
    assert torch.load(saved.with_name("previous.ckpt"), weights_only=True)["step"] == 1
    assert sorted(os.listdir(saved.parent)) == ["last.ckpt", "previous.ckpt"]


def test_every_single_bit_flip_is_noticed(saved):
    whole = saved.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        saved.write_bytes(data)
        with pytest.warns(UserWarning, match="damaged checkpoint"):
            assert checkpoint_io.load(saved)["step"] == 1


def test_every_truncation_is_noticed(saved):
    whole = saved.read_bytes()
    for size in [0, 1, 71, 72, 73, *random.Random(0).sample(range(len(whole)), 20)]:
        saved.write_bytes(whole[:size])
        with pytest.warns(UserWarning, match="damaged checkpoint"):
            assert checkpoint_io.load(saved)["step"] == 1


def test_a_missing_file_falls_back_and_two_bad_ones_are_named(saved):
    saved.unlink()
    with pytest.warns(UserWarning, match="No such file"):
        assert checkpoint_io.load(saved)["step"] == 1
    saved.with_name("previous.ckpt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"last\.ckpt: No such file.*previous\.ckpt: damaged"):
        checkpoint_io.load(saved)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    checkpoint_io.save({"x": Payload()}, path)
    with pytest.raises(ValueError, match="more than tensors and plain values"):
        checkpoint_io.load(path)
    assert not (tmp_path / "pwned").exists()


def test_urls_are_refused():
    with pytest.raises(ValueError, match="only local files"):
        VerifiedCheckpointIO().load_checkpoint("https://example.org/last.ckpt")
