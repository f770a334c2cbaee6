"""TensorBoard's events of real runs: what is there, once, in order, and where the layout puts it."""

import json
import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from nas.callbacks.dashboard import Dashboard, pixels
from nas.callbacks.layout import MAX_SERIES, custom_scalars
from nas.drawing import draw_architecture
from nas.genotype import Genotype
from nas.training.arch_statistics import GradientStatistics, kind_shares


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    return found.Reload()


def charts(folder):
    """Page -> chart -> patterns, as TensorBoard reads them."""
    (event,) = events(folder).Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }


def test_what_a_search_shows(run_cli, config):
    assert run_cli("search", "--config", config({"trainer.num_images": 10}), "--out", "run").code == 0
    found = events("run")
    tags = found.Tags()
    assert set(tags["images"]) == {"search/probabilities", "search/architecture"}
    steps = [event.step for event in found.Scalars("search/tau")]
    assert len(steps) == 3
    assert [
        event.step for event in found.Images("search/architecture")
    ] == steps  # fewer epochs than pictures: each has one
    for tag in ("search/alpha_grad_norm", "gap/supernet", "gap/derived", "kind/dilation_8", "search/argmax_changes"):
        values = [event.value for event in found.Scalars(tag)]
        assert values and all(math.isfinite(value) for value in values), tag
    assert "alpha" in tags["histograms"]
    summary = json.loads(open_text("run/summary.json"))
    (final,) = found.Scalars("final/arch_accuracy")
    assert final.value == pytest.approx(summary["metric"]["value"])
    text = {tag: found.Tensors(f"{tag}/text_summary")[0] for tag in ("config", "genotype", "summary")}
    assert b"class_path" in text["config"].tensor_proto.string_val[0]
    assert "_hparams_/session_start_info" in [*tags["tensors"], *found.summary_metadata]
    for page, entries in charts("run").items():
        for title, patterns in entries.items():
            matched = [tag for tag in tags["scalars"] for pattern in patterns if re.search(pattern, tag)]
            assert len(matched) == len(patterns), f"{page}, {title}: {patterns}"


def test_pictures_that_show_nothing_are_not_written(run_cli, config):
    path = config({"model.arch_optimizer.init_args.lr": 1e-9})  # no probability changes visibly
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    assert events("run").Tags()["images"] == ["search/architecture"]


def test_a_picture_of_the_usual_width_fills_a_card():
    figure = draw_architecture(Genotype({"a": "x"}, probabilities={"a": {"x": 0.5, "y": 0.5}}), {})
    assert pixels(figure).shape[1] == 350  # TensorBoard's style sheet gives a card 350 pixels


def test_costs_are_shown_beside_their_limits(run_cli, config):
    path = config({"model.cost": {"params": {"max": 200}}})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    found = events("run")
    assert {event.value for event in found.Scalars("cost/params/limit")} == {200.0}
    assert {event.value for event in found.Scalars("cost/params/derived")} == {126.0}  # all architectures cost the same
    assert found.Scalars("cost/params")[-1].value == pytest.approx(126)
    assert len(charts("run")["Cost"]["params"]) == 3


def open_text(path):
    with open(path) as file:
        return file.read()


@pytest.mark.parametrize("num_images", [0, 2])
def test_pictures_are_drawn_at_even_distances(run_cli, config, num_images):
    path = config({"trainer.num_images": num_images, "trainer.max_epochs": 4})
    assert run_cli("search", "--config", path, "--out", "run").code == 0
    found = events("run")
    steps = [event.step for event in found.Scalars("search/tau")]
    if num_images == 0:
        assert not found.Tags()["images"]
    else:
        assert [event.step for event in found.Images("search/architecture")] == [steps[1], steps[3]]


@given(st.integers(1, 300), st.integers(0, 50))
def test_so_many_pictures_and_one_at_the_end(num_epochs, num_images):
    due = [epoch for epoch in range(num_epochs) if Dashboard("", num_images=num_images)._is_due(epoch, num_epochs)]
    assert len(due) == min(num_epochs, num_images)
    assert not num_images or due[-1] == num_epochs - 1
    gaps = [b - a for a, b in pairwise(due)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_layout_gives_every_tag_a_place_and_every_chart_few_lines():
    tags = [
        "weight/loss",
        "arch/loss",
        "weight/accuracy",
        "search/tau",
        "lr/weight",
        "cost/macs",
        "entropy/a.b",
        "kind/x",
    ]
    tags += [f"choice/a.b/op+{i}" for i in range(11)]
    layout = custom_scalars(tags)
    assert list(layout) == ["Search", "Choices", "Cost", "Training"]
    patterns = [p for page in layout.values() for kind, ps in page.values() for p in ps]
    assert all(any(re.fullmatch(pattern, tag) for pattern in patterns) for tag in tags)
    assert all(
        kind == "Multiline" and 1 <= len(ps) <= MAX_SERIES for page in layout.values() for kind, ps in page.values()
    )
    assert [title for title in layout["Choices"] if title.startswith("a.b")] == ["a.b (1 of 2)", "a.b (2 of 2)"]


@given(st.integers(1, 20), st.integers(0, 2**16))
def test_the_gradient_meter_agrees_with_torch(num_steps, seed):
    gradients = torch.randn(num_steps, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    meter = GradientStatistics(gradients.shape[1:]).to(torch.float64)
    meter.set_dtype(torch.float64)
    for gradient in gradients:
        meter.update(gradient)
    norm, ratio = meter.compute()
    assert float(norm) == pytest.approx(float(gradients.mean(0).norm()), rel=1e-9)
    if num_steps > 1:
        assert float(ratio) == pytest.approx(float(gradients.mean(0).norm() / gradients.var(0).sum().sqrt()), rel=1e-9)


def test_kind_shares_are_means_over_the_choices_that_have_a_label():
    rows = {"a": {"skip": 0.5, "conv": 0.5}, "b": {"skip": 0.1, "pool": 0.9}, "c": {"conv": 1.0}}
    assert kind_shares(rows) == {"skip": pytest.approx(0.3), "conv": pytest.approx(0.75)}
