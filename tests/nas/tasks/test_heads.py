from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

from nas.tasks import Classification, Heads, MultiLabel, Regression, Segmentation
from nas.training.metrics import SplitMetrics

Pair = namedtuple("Pair", ["type", "size"])


@dataclass
class Plain:
    type: torch.Tensor
    size: torch.Tensor | None
    rest: None = None


@dataclass
class Hugging(ModelOutput):
    type: torch.Tensor | None = None
    size: torch.Tensor | None = None


def draw():
    g = torch.Generator().manual_seed(0)
    outputs = torch.randn(12, 3, generator=g), torch.randn(12, generator=g)
    return outputs, (torch.randint(0, 3, (12,), generator=g), torch.randn(12, generator=g))


def both(**options):
    return Heads({"type": Classification(3), "size": Regression()}, **{"main": "type", **options})


@pytest.mark.parametrize(
    "pack", [lambda *x: x, lambda *x: list(x), lambda a, b: {"size": b, "type": a}, Pair, Plain, Hugging]
)
def test_the_loss_is_the_weighted_sum_over_heads_in_any_container(pack):
    (logits, size), (label, value) = draw()
    expected = F.cross_entropy(logits, label) + 0.25 * F.mse_loss(size, value)
    task, output = both(weights={"size": 0.25}), pack(logits, size)
    for target in ((label, value), {"type": label, "size": value}):
        task.check_target(target)
        torch.testing.assert_close(task.loss(output, target), expected)
    assert torch.equal(task.prediction(output)["type"], logits) and torch.equal(task.prediction(output)["size"], size)


def test_a_head_may_take_another_element_and_all_heads_an_inner_one():
    (logits, size), target = draw()
    tasks = {"type": Classification(3, output=-1), "size": Regression(output="width")}
    output = {"width": size, "unused": None, "scores": logits}
    expected = both().loss((logits, size), target)
    torch.testing.assert_close(Heads(tasks, main="type").loss(output, target), expected)
    torch.testing.assert_close(both(output="heads").loss({"heads": [logits, size]}, target), expected)


@pytest.mark.parametrize("main", ["type", "size"])
def test_metrics_are_those_of_each_head_and_the_main_head_is_the_first(main):
    task, (output, target) = both(main=main), draw()
    metrics = task.metrics()
    own = {"type": ["type/accuracy"], "size": ["size/mse", "size/mae"]}
    assert list(metrics) == own[main] + own["size" if main == "type" else "type"]
    for metric in metrics.values():
        metric.update(task.prediction(output), target)
    accuracy = (output[0].argmax(1) == target[0]).float().mean()
    assert float(metrics["type/accuracy"].compute()) == pytest.approx(float(accuracy))
    assert float(metrics["size/mse"].compute()) == pytest.approx(float(F.mse_loss(output[1], target[1])))
    first = next(iter(metrics.values()))
    assert first.higher_is_better is (main == "type")
    constant = task.constant()
    constant.update(task.prediction(output), target)
    alone = {"type": target[0].bincount().max() / 12, "size": target[1].var(correction=0)}
    assert float(constant.compute()) == pytest.approx(float(alone[main]))


def test_without_a_main_head_the_mean_of_the_headline_metrics_is_the_headline():
    g = torch.Generator().manual_seed(1)
    output = {"a": torch.randn(8, 2, generator=g), "b": torch.randn(8, 4, generator=g)}
    target = {"a": torch.randint(0, 2, (8,), generator=g), "b": torch.randint(0, 4, (8,), generator=g)}
    task = Heads({"a": Classification(2), "b": Classification(4)})
    mean, constant = task.metrics()["mean"], task.constant()
    assert next(iter(task.metrics())) == "mean" and mean.higher_is_better
    mean.update(task.prediction(output), target)
    constant.update(task.prediction(output), target)
    accuracies = [(output[k].argmax(1) == target[k]).float().mean() for k in "ab"]
    assert float(mean.compute()) == pytest.approx(float(sum(accuracies)) / 2)
    assert float(constant.compute()) == pytest.approx(sum(float(target[k].bincount().max()) / 8 for k in "ab") / 2)


def test_checkpoints_hold_the_metrics_and_a_new_epoch_starts_at_zero():
    task, (output, target) = both(), draw()
    splits = []
    for _ in range(2):
        splits.append(SplitMetrics())
        splits[-1].add("train", task)
    one, other = splits
    one.see("train", torch.tensor(0.0), task.prediction(output), target)
    other.load_state_dict(one.state_dict())
    half = [tensor[:5] for tensor in output], [tensor[:5] for tensor in target]
    for split in splits:
        split.see("train", torch.tensor(0.0), task.prediction(half[0]), half[1])
    assert one.scalars({}) == other.scalars({}) and one.scalars({})["train/size/mse"] is not None
    one.reset()
    assert set(one.scalars({}).values()) == {None}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"type": torch.zeros(12, 3)}, "output has no element 'size': it is a dict of type"),
        (Hugging(type=torch.zeros(12, 3)), "output has no element 'size': it is a Hugging of type"),
        (Plain(torch.zeros(12, 3), None), "output has no element 'size'"),
        ((torch.zeros(12, 3),), "output has 1 elements, but there are 2 heads: type, size"),
        (torch.zeros(12, 3), "output has no element 'type': it is a Tensor"),
        ((torch.zeros(12, 4), torch.zeros(12)), "head 'type': Classification expects outputs of shape"),
        (({"x": 1}, torch.zeros(12)), "head 'type': Classification: the output is a dict of x instead of a tensor"),
    ],
)
def test_outputs_that_do_not_fit(output, message):
    with pytest.raises(ValueError, match=message):
        both().loss(output, draw()[1])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"type": torch.zeros(2, dtype=torch.int64)}, "head 'size': the target has no element 'size'"),
        ((torch.zeros(2), torch.zeros(2)), "head 'type': Classification needs integer labels"),
        (torch.zeros(2), "head 'type': the target has no element 'type': it is a Tensor"),
        ([torch.zeros(2)] * 3, "the target has 3 elements, but there are 2 heads"),
    ],
)
def test_targets_that_do_not_fit(target, message):
    with pytest.raises(ValueError, match=message):
        both().check_target(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": {}}, "tasks must have names"),
        ({"tasks": {"a.b": Regression()}}, "without a point"),
        ({"main": "kind"}, "there is no head 'kind'; the heads are type, size"),
        ({"weights": {"kind": 1.0}}, "there is no head 'kind'"),
        ({"weights": {"size": -1.0}}, "weights must be at least 0"),
        ({"main": None}, "set `main` to a head"),
    ],
)
def test_bad_heads(options, message):
    with pytest.raises(ValueError, match=message):
        Heads(**{"tasks": {"type": Classification(3), "size": Regression()}, "main": "type", **options})


@pytest.mark.parametrize(
    ("task", "output", "target"),
    [
        (Classification(3), torch.randn(4, 3), torch.arange(4) % 3),
        (Segmentation(3), torch.randn(4, 3, 2), torch.ones(4, 2, dtype=torch.int64)),
        (MultiLabel(3), torch.randn(4, 3), torch.ones(4, 3)),
        (Regression(), torch.randn(4, 3), torch.ones(4, 3)),
    ],
)
def test_every_task_takes_one_element_of_the_output(task, output, target):
    whole = task.loss(output, target), task.prediction(output)
    for key, packed in (
        ("logits", Hugging(size=0) | {"logits": output}),
        (1, (None, output)),
        (-1, {"logits": output}),
    ):
        task.output = key
        assert torch.equal(task.loss(packed, target), whole[0]) and torch.equal(task.prediction(packed), whole[1])
    task.output = "scores"
    with pytest.raises(ValueError, match="output has no element 'scores': it is a dict of logits"):
        task.loss({"logits": output}, target)
    task.output = None
    with pytest.raises(
        ValueError, match="the output is a dict of logits instead of a tensor; `output` of a task names"
    ):
        task.loss({"logits": output}, target)
