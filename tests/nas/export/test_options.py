"""Exports of one batch size, and of an older version of the ONNX operators."""

import json

import pytest
import torch
from torch import nn

import nas


class Both(nn.Module):
    """Takes any number of inputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, first, *others):
        return self.layer(first) + sum(other.mean(1, keepdim=True) for other in others)


def test_one_batch_size_and_an_opset(tmp_path):
    onnx = pytest.importorskip("onnx")
    inputs = [torch.randn(2, 4), torch.randn(2, 3), torch.randn(2, 5)]
    report = nas.export_network(Both(), inputs, tmp_path / "out", formats=("python", "onnx", "pt2"), batch=3, opset=19)
    assert all(row["ok"] for row in report.values()), report
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in model.graph.input] == [3, 3, 3]
    assert max(entry.version for entry in model.opset_import if not entry.domain) == 19
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [3, 4] in about["input"]["shapes"]
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    assert program(*[torch.randn(3, n) for n in (4, 3, 5)]).shape == (3, 2)
    with pytest.raises(Exception, match=r"(?i)shape|guard|size"):
        program(*[torch.randn(2, n) for n in (4, 3, 5)])


def test_any_batch_size_with_any_number_of_inputs(tmp_path):
    report = nas.export_network(Both(), [torch.randn(2, 4), torch.randn(2, 3)], tmp_path / "out", formats=("pt2",))
    assert report["pt2"]["ok"], report


@pytest.mark.parametrize("option", ["batch", "opset"])
def test_numbers_below_one_are_refused(option, tmp_path):
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        nas.export_network(Both(), [torch.randn(2, 4)], tmp_path / "out", **{option: 0})
    assert not (tmp_path / "out").exists()
