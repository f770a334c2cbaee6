"""Peak memory of what follows a training, over images that are made on the fly: 2.5 GB of them, were they all held."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

OWN = """
import sys, resource, json
import torch
from torch import nn
import nas
from nas.cli import main
from nas.data import SearchDataModule
from nas.runs.stages import search


class Made(torch.utils.data.Dataset):
    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        return torch.full((3, 64, 64), index % 7 / 7), index % 7


class Data(SearchDataModule):
    def train_set(self, augment):
        return Made(50_000)

    def test_set(self):
        return Made(700)


class Space(nas.SearchSpace):
    def network(self, stage="search"):
        def conv(k):
            return nn.Sequential(nn.Conv2d(3, 4, k, stride=4, padding=k // 2), nn.BatchNorm2d(4))
        op = nas.choice("op", {"k3": conv(3), "k5": conv(5)})
        act = nas.choice("act", {"relu": nn.ReLU(), "tanh": nn.Tanh()})
        return nn.Sequential(op, act, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    peaks, derive = [], search.derive_and_score
    def noted(*args, **options):
        peaks.append(peak())
        return derive(*args, **options)
    search.derive_and_score = noted
    code = main(sys.argv[1:])
    print(json.dumps({"code": code, "trained": peaks[0], "ended": peak()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{"class_path": "nas.derive.Ranked"}, {"class_path": "nas.derive.Argmax"}])
def test_the_end_of_a_search_takes_no_memory_that_grows_with_the_data(config, strategy):
    Path("made_images.py").write_text(OWN)
    changes = {
        "model.space": "made_images.Space",
        "model.task": {"class_path": "nas.tasks.Classification", "init_args": {"num_classes": 7}},
        "model.derive": strategy,
        "model.warmup_epochs": 0,
        "data": {"class_path": "made_images.Data", "init_args": {"batch_size": 250}},
        "trainer.max_epochs": 1,
    }
    path = config(changes)
    assert yaml.safe_load(path.read_text())["model"]["derive"] == strategy
    words = ["search", "--config", path, "--trust-module", "made_images", "--out", "run", "--json"]
    done = subprocess.run([sys.executable, "made_images.py", *words], capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["code"] == 0, done.stderr
    assert result["ended"] <= 1.1 * result["trained"]
