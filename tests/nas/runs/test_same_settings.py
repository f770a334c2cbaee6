"""Settings of a stored table against present ones, whose classes may have more arguments."""

import pytest

import nas.tasks
from nas.runs.results import same_settings


def task(**arguments):
    return {"task": {"class_path": "nas.tasks.Classification", "init_args": arguments}}


@pytest.mark.parametrize(
    ("stored", "present", "same"),
    [
        (task(num_classes=10), task(num_classes=10, label_smoothing=0.0, class_weights=None), True),
        (task(num_classes=10), task(num_classes=10, class_weights=[1.0, 2.0]), False),
        (task(num_classes=10, label_smoothing=0.1), task(num_classes=10, label_smoothing=0.0), False),
        (task(num_classes=10, gone=1), task(num_classes=10), False),
        ({**task(num_classes=10), "more": 1}, task(num_classes=10), False),
        (task(num_classes=10), {**task(num_classes=10), "more": 1}, False),
        ({"task": {"class_path": "nas.tasks.Other"}}, task(), False),
        ({"trainer": {"max_epochs": 3}}, {"trainer": {"max_epochs": 4}}, False),
    ],
)
def test_arguments_that_are_new_must_have_their_defaults(stored, present, same):
    assert nas.tasks.Classification is not None  # a present setting names classes that are imported
    assert same_settings(stored, present) is same
