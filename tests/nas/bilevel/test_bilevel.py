"""Second-order gradients against the analytic hypergradient of quadratics."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import nas
from nas.bilevel import FirstOrder, Unrolled
from nas.regularizers import Entropy
from nas.relaxations import GumbelSoftmax, SampledPath
from nas.runs import trainer
from nas.runs.folder import RunFolder
from nas.tasks import Classification
from nas.tau import Constant, LearnedTau

F64 = torch.float64


class Quadratic:
    """L_weight = (w - A a)^T Q (w - A a) / 2, L_arch = |w - t|^2 / 2 + c . a; takes one step with real optimizers."""

    arch_moves = True
    weights_move = True

    def __init__(self, momentum=0.0, weight_decay=0.0, nesterov=False, warm=True):
        g = torch.Generator().manual_seed(0)
        n, m = 5, 3
        self.a, root = torch.randn(n, m, dtype=F64, generator=g), torch.randn(n, n, dtype=F64, generator=g)
        self.q = root @ root.T / n
        self.t, self.c = torch.randn(n, dtype=F64, generator=g), torch.randn(m, dtype=F64, generator=g)
        self.w = nn.Parameter(torch.randn(n, dtype=F64, generator=g))
        self.alpha = nn.Parameter(torch.randn(m, dtype=F64, generator=g))
        self.present_weight_optimizer = torch.optim.SGD(
            [self.w], lr=0.1, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        if warm:  # so that there is a momentum buffer
            self.descend(self.loss("weight"), "weight")
        self.gradients = {}

    def named_weights(self):
        return {"w": self.w}

    def arch_parameters(self):
        return [self.alpha]

    def loss(self, batch):
        return self.virtual_loss(batch, {"w": self.w})

    def losses(self, batch):
        yield self.loss(batch)

    def virtual_loss(self, batch, weights):
        w = weights["w"]
        if batch == "arch":
            return (w - self.t).square().sum() / 2 + self.c @ self.alpha
        d = w - self.a @ self.alpha
        return d @ self.q @ d / 2

    def arch_penalty(self):
        return torch.zeros((), dtype=F64)

    def descend(self, loss, *levels):
        loss = loss if isinstance(loss, torch.Tensor) else sum(loss)
        if levels == ("arch",):
            (self.gradients["arch"],) = torch.autograd.grad(loss, self.alpha)
            return
        self.w.grad = torch.autograd.grad(loss, self.w)[0]
        self.present_weight_optimizer.step()

    def analytic(self):
        """d w' / d alpha = lr (1 + momentum if Nesterov) Q A, by hand."""
        group = self.present_weight_optimizer.param_groups[0]
        twin = copy.deepcopy(self)
        twin.present_weight_optimizer = torch.optim.SGD(
            [twin.w], **{k: group[k] for k in ("lr", "momentum", "weight_decay", "nesterov")}
        )
        twin.present_weight_optimizer.load_state_dict(copy.deepcopy(self.present_weight_optimizer.state_dict()))
        twin.descend(twin.loss("weight"), "weight")  # torch's own step is where the virtual weights must be
        rate = group["lr"] * (1 + group["momentum"] * group["nesterov"])
        return self.c + rate * (self.q @ self.a).T @ (twin.w.detach() - self.t)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"weight_decay": 0.3},
        {"momentum": 0.9, "weight_decay": 0.3},
        {"momentum": 0.8, "nesterov": True},
    ],
    ids=str,
)
def test_unrolled_is_the_analytic_hypergradient(options, warm):
    gradients = {}
    for name, method in (("exact", Unrolled()), ("finite", Unrolled(exact=False)), ("first", FirstOrder())):
        problem = Quadratic(**options, warm=warm)
        expected = problem.analytic()
        before = problem.w.detach().clone()
        method.step(problem)
        gradients[name] = problem.gradients["arch"]
        assert not torch.equal(problem.w, before)  # the real step is taken too
    torch.testing.assert_close(gradients["exact"], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradients["finite"], expected, atol=1e-3, rtol=0)
    assert (gradients["first"] - expected).abs().max() > 0.01


class Space(nas.SearchSpace):
    def network(self, stage="search"):
        op = nas.choice(
            "op",
            {
                "lin": partial(nn.Linear, 4, 4),
                "deep": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
                "id": nn.Identity,
            },
        )
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), op, nn.Tanh(), nn.Linear(4, 2)).double()


def data(n=2):
    g = torch.Generator().manual_seed(0)
    one = lambda: (torch.randn(8, 3, dtype=F64, generator=g), torch.randint(0, 2, (8,), generator=g))  # noqa: E731
    return [(one(), one()) for _ in range(n)]


def search(bilevel, path, batches=None, **changes):
    torch.default_generator.manual_seed(0)
    arguments = {
        "space": Space(),
        "relaxation": GumbelSoftmax(),
        "tau": Constant(1.0),
        "task": Classification(2),
        "weight_optimizer": partial(torch.optim.SGD, lr=0.3, momentum=0.9, weight_decay=1e-2),
        "arch_optimizer": partial(torch.optim.SGD, lr=1.0),
    }
    module = nas.SearchModule(bilevel=bilevel, **(arguments | changes)).double()
    loader = torch.utils.data.DataLoader(batches or data(), batch_size=None)
    options = trainer.TrainerOptions(max_epochs=1, accelerator="cpu")
    trainer.train(trainer.make_trainer(options), options, module, loader, RunFolder(path), "t", "a")
    return module


@pytest.mark.parametrize(
    "relaxation", [GumbelSoftmax(), GumbelSoftmax(hard=True), SampledPath()], ids=["soft", "hard", "sampled"]
)
def test_a_search_takes_both_versions_of_the_second_order_step(tmp_path, relaxation):
    alphas = {}
    for name, method in (("exact", Unrolled()), ("finite", Unrolled(exact=False)), ("first", FirstOrder())):
        module = search(method, tmp_path / name, relaxation=relaxation)
        alphas[name] = module.supernet.alpha.detach()
        assert module.scalars()["search/tau"] == 1.0
    # the finite difference has an error of order radius^2 of the loss's curvature
    torch.testing.assert_close(alphas["finite"], alphas["exact"], atol=1e-3, rtol=0)
    assert not torch.allclose(alphas["first"], alphas["exact"], atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_virtual_passes_leave_no_trace_in_weights_and_batch_norm(tmp_path, exact):
    """At an alpha that rests, weights and statistics are bit for bit those of a step without any arch pass."""
    plain = search(FirstOrder(), tmp_path / "plain", warmup_epochs=1)
    unrolled = search(Unrolled(exact=exact), tmp_path / "unrolled", arch_optimizer=partial(torch.optim.SGD, lr=0.0))
    for (name, expected), got in zip(plain.state_dict().items(), unrolled.state_dict().values(), strict=True):
        if name.startswith("supernet"):
            assert torch.equal(got, expected), name
    assert int(unrolled.supernet.network[1].num_batches_tracked) == 2


def test_regularizers_join_the_second_order_gradient(tmp_path):
    plain, with_entropy = (
        search(Unrolled(), tmp_path / str(i), batches=data(1), regularizers=r)
        for i, r in enumerate(([], [Entropy(2.0)]))
    )
    # alpha was 0, where the entropy's gradient is 0: the second step differs
    torch.testing.assert_close(plain.supernet.alpha, with_entropy.supernet.alpha, atol=1e-12, rtol=0)
    plain, with_entropy = (
        search(Unrolled(), tmp_path / f"b{i}", batches=data(2), regularizers=r)
        for i, r in enumerate(([], [Entropy(2.0)]))
    )
    assert not torch.allclose(plain.supernet.alpha, with_entropy.supernet.alpha, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.AdamW,
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.1),
        partial(torch.optim.SGD, lr=0.1, maximize=True),
    ],
)
def test_other_virtual_optimizers_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"Unrolled needs weight_optimizer torch\.optim\.SGD"):
        nas.SearchModule(
            space=Space(),
            relaxation=GumbelSoftmax(),
            tau=Constant(),
            task=Classification(2),
            bilevel=Unrolled(),
            weight_optimizer=optimizer,
        )
    with pytest.raises(ValueError, match="radius must be above 0"):
        Unrolled(radius=0.0)


def test_recomputation_is_refused():
    with pytest.raises(ValueError, match="Unrolled cannot recompute candidates"):
        nas.SearchModule(
            space=Space(),
            relaxation=GumbelSoftmax(),
            tau=Constant(),
            task=Classification(2),
            bilevel=Unrolled(),
            weight_optimizer=partial(torch.optim.SGD, lr=0.1),
            checkpoint_candidates=True,
        )


def test_weights_that_are_not_trained_stay_in_the_virtual_net_too(tmp_path):
    """An optimizer of some parameters only: as if the others were frozen."""

    class Frozen(Space):
        def network(self, stage="search"):
            net = super().network()
            net[0].weight.requires_grad_(False)
            return net

    def all_but_one(parameters):
        return torch.optim.SGD([p for p in parameters if p.shape != (4, 3)], lr=0.3, momentum=0.9, weight_decay=1e-2)

    some = search(Unrolled(), tmp_path / "some", weight_optimizer=all_but_one)
    frozen = search(Unrolled(), tmp_path / "frozen", space=Frozen())
    torch.testing.assert_close(some.supernet.alpha, frozen.supernet.alpha, atol=1e-12, rtol=0)


def test_dropout_is_the_same_at_both_ends_of_the_finite_difference(tmp_path):
    class Dropping(Space):
        def network(self, stage="search"):
            return nn.Sequential(nn.Dropout(0.3), super().network(), nn.Dropout(0.3))

    exact, finite = (search(Unrolled(exact=e), tmp_path / str(e), space=Dropping()) for e in (True, False))
    torch.testing.assert_close(finite.supernet.alpha, exact.supernet.alpha, atol=1e-3, rtol=0)


@pytest.mark.parametrize("exact", [True, False])
def test_a_learned_tau_without_choices_is_searched(tmp_path, exact):
    class Assigning(nas.SearchSpace):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.score, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

            def forward(self, x):
                return self.head(nas.sample(self.score(x)))

        def network(self, stage="search"):
            return self.Net().double()

    module = search(Unrolled(exact=exact), tmp_path, space=Assigning(), tau=LearnedTau(2.0))
    assert float(module.tau(0.0).detach()) != pytest.approx(2.0, abs=1e-9)
