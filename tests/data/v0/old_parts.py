"""A space and a cost, written for the modules of commit dfd8c67."""

from functools import partial

from torch import nn

from nas.candidates import Zero
from nas.choices import choice, gate, repeat, width
from nas.costs import num_params
from nas.search_space import SearchSpace


class EveryKind(SearchSpace):
    """One choice of each kind on sequences: a candidate op, a gate, a depth, a width."""

    def __init__(self, channels: int = 4):
        self.channels = channels

    def network(self, stage="search"):
        n = self.channels
        hidden = width("hidden", (4, 8))
        conv = choice("conv", {f"dilation_{d}": partial(nn.Conv1d, 1, n, 3, padding=d, dilation=d) for d in (1, 8)})
        branch = gate("branch", partial(nn.Conv1d, n, n, 1), drop=Zero)
        depth = repeat("depth", lambda i: nn.Sequential(nn.Conv1d(n, n, 3, padding=1), nn.ReLU()), (1, 2))
        head = nn.Sequential(nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        return nn.Sequential(conv, nn.BatchNorm1d(n), nn.ReLU(), Add(branch), depth, nn.AdaptiveAvgPool1d(1), nn.Flatten(), head)


class Add(nn.Module):
    """The input plus a branch of it."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


def kilo_params(network, inputs):
    """Parameters in thousands."""
    return num_params(network) / 1000
