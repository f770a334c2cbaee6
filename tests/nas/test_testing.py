"""The checkers catch wrong parts."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import nas
from nas.bilevel import FirstOrder, Joint, Unrolled
from nas.data import SearchDataModule
from nas.supernet.fused import mixture
from nas.testing import check_bilevel, check_data, check_search_space


class Space(nas.SearchSpace):
    """A right one, to be made wrong."""

    def network(self, stage="search"):
        return nas.choice("c", {"a": partial(nn.Linear, 3, 3), "b": nn.Identity})


INPUTS = [torch.randn(2, 3)]


def test_a_right_space_passes():
    check_search_space(Space(), INPUTS)


def test_op_weights_that_fold_wrongly_are_caught(monkeypatch):
    right = mixture.call_scaled
    wrong = {kind: lambda *arguments, call=call: call(*arguments) * 1.01 for kind, call in right.items()}
    monkeypatch.setattr(mixture, "call_scaled", wrong)
    with pytest.raises(
        AssertionError, match="the outputs of derived network and supernet with folded op weights differ"
    ):
        check_search_space(Space(), INPUTS)


class NoChoices(Space):
    def network(self, stage="search"):
        return nn.Linear(3, 3)


class SameNetwork(Space):
    net = nas.choice("c", {"a": nn.ReLU, "b": nn.Identity})

    def network(self, stage="search"):
        return self.net


class NotAModule(Space):
    def network(self, stage="search"):
        return lambda x: x


class OtherKeysWhenBuilt(Space):
    def network(self, stage="search"):
        op = super().network()
        return nn.Sequential(op) if isinstance(op, nas.MixedOp) else nn.Sequential(nn.Identity(), op)


class OtherOutput(Space):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.op = Space().network()

        def forward(self, x):
            return self.op(x) * (2.0 if isinstance(self.op, nas.MixedOp) else 1.0)

    def network(self, stage="search"):
        return self.Net()


class NoRetrain(Space):
    def network(self, stage="search"):
        net = super().network()
        return net if stage == "search" else None


class ChoiceLeft(Space):
    def network(self, stage="search"):
        left = nas.MixedOp("left", {"a": nn.ReLU(), "b": nn.Identity()})
        return nn.Sequential(super().network(), nn.Identity() if nas.searching() else left)


class OtherChoicesWhenRetrained(Space):
    def network(self, stage="search"):
        name = "c" if stage == "search" else "d"
        return nas.choice(name, {"a": nn.ReLU, "b": nn.Identity})


class Frozen(Space):
    """Weights that are frozen under a genotype only."""

    def network(self, stage="search"):
        net = nn.Sequential(nas.choice("c", {"a": nn.ReLU, "b": nn.Identity}), nn.Linear(3, 3))
        return net if nas.searching() else net.requires_grad_(False)


class WorkOutsideCandidates(Space):
    """A matrix product in the forward that is there for one label only."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.op = nas.choice("c", {"a": nn.Tanh, "b": nn.Identity})

        def forward(self, x):
            return self.op(x) + (x @ x.T @ x if isinstance(self.op, nn.Tanh) else 0) * 0

    def network(self, stage="search"):
        return self.Net()


class Mixing(Space):
    """A layer norm sees the zeros of channels that are not there."""

    def network(self, stage="search"):
        width = nas.width("w", (2, 4))
        return nn.Sequential(nn.Linear(3, width), nn.Softmax(-1), nn.Linear(width, 2))


class BadDiscretize(Space):
    def discretize(self, probabilities):
        return nas.Genotype({"nothing": "a"})


@pytest.mark.parametrize(
    ("space", "rule"),
    [
        (ChoiceLeft, "choice is left"),
        (OtherChoicesWhenRetrained, "must have the choices"),
        (Frozen, "differ in trained parameters"),
        (WorkOutsideCandidates, "table of macs"),
        (Mixing, "the outputs of derived network and supernet differ"),
        (BadDiscretize, "discretize"),
        (NoChoices, "no choices"),
        (SameNetwork, "new network"),
        (NotAModule, "must return an nn.Module"),
        (OtherKeysWhenBuilt, "state-dict keys"),
        (OtherOutput, "the outputs of derived network and supernet differ"),
        (NoRetrain, "retrain"),
    ],
)
def test_wrong_spaces_are_caught(space, rule):
    with pytest.raises(AssertionError, match=rule):
        check_search_space(space(), INPUTS)


class Data(SearchDataModule):
    def train_set(self, augment):
        return TensorDataset(torch.arange(200.0)[:, None], torch.arange(200))

    def test_set(self):
        return TensorDataset(torch.arange(5.0)[:, None], torch.arange(5))


class Unkeyed(Data):
    class Noisy(TensorDataset):
        draws = torch.Generator().manual_seed(0)

        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.rand(1, generator=self.draws), y

    def train_set(self, augment):
        return self.Noisy(*super().train_set(augment).tensors)


class EmptyTest(Data):
    def test_set(self):
        return TensorDataset(torch.zeros(0, 1), torch.zeros(0))


class Triples(Data):
    def test_set(self):
        return TensorDataset(torch.zeros(5, 1), torch.zeros(5), torch.zeros(5))


def test_data_is_checked():
    check_data(Data(batch_size=10))
    for data, rule in ((Unkeyed, "same batches"), (EmptyTest, "test set is empty"), (Triples, "must be")):
        with pytest.raises(AssertionError, match=rule):
            check_data(data(batch_size=10))


class ScoreFunction(FirstOrder):
    """REINFORCE with a baseline: losses at other op weights than those that were drawn."""

    def step(self, step):
        if step.arch_moves:
            logits = step.supernet.alpha
            terms = []
            for label in ("relu", "tanh"):
                with torch.no_grad():
                    loss = step.loss("arch", step.supernet.one_hot({"act": label}))
                row = step.supernet.choices["act"].index(label)
                terms.append(loss * torch.log_softmax(logits, -1)[0, row])
            step.descend(sum(terms), "arch")
        step.descend(step.loss("weight"), "weight")


class OwnLoss(FirstOrder):
    """Computes everything by itself."""

    def step(self, step):
        for level in ("arch", "weight") if step.arch_moves else ("weight",):
            inputs, target = step.batch(level)
            output = step.supernet(inputs, op_weights=step.draw(level))
            step.descend(torch.nn.functional.cross_entropy(output, target), level)


class Restless(FirstOrder):
    def step(self, step):
        step.descend(step.loss("arch"), "arch")
        step.descend(step.loss("weight"), "weight")


class Idle(FirstOrder):
    def step(self, step):
        step.descend(step.loss("weight"), "weight")


@pytest.mark.parametrize(
    "bilevel", [FirstOrder(), Joint(), Unrolled(), ScoreFunction(), OwnLoss()], ids=lambda b: type(b).__name__
)
def test_bilevel_methods_that_keep_the_rules(bilevel):
    check_bilevel(bilevel)


@pytest.mark.parametrize(
    ("bilevel", "rule"),
    [(Restless(), "alpha must not move in the warm-up"), (Idle(), "alpha must move after the warm-up")],
)
def test_bilevel_methods_that_break_them(bilevel, rule):
    with pytest.raises(AssertionError, match=rule):
        check_bilevel(bilevel)
