"""Gradients of the two parameter sets, against autograd on the whole expression."""

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nas
from nas.bilevel import FirstOrder, Joint, Unrolled
from nas.paths import Fair, Stratified
from nas.regularizers import Entropy, entropy
from nas.relaxations import GumbelSoftmax, Relaxation, SampledPath, TwoPath
from nas.runs import trainer
from nas.runs.folder import RunFolder
from nas.tasks import Classification, Regression
from nas.tau import Constant, TauSchedule
from nas.training.lr_schedules import make_lr_scheduler
from nas.training.sampling import Moment
from nas.training.search_step import SearchStep


class Space(nas.SearchSpace):
    def network(self, stage="search"):
        return nn.Sequential(
            nas.choice("a", {"lin": partial(nn.Linear, 3, 3), "id": nn.Identity}),
            nas.choice("b", {"x": partial(nn.Linear, 3, 2), "y": partial(nn.Linear, 3, 2, bias=False)}),
        )


def batches(n=1):
    g = torch.Generator().manual_seed(0)

    def one():
        return torch.randn(8, 3, generator=g), torch.randint(0, 2, (8,), generator=g)

    return [(one(), one()) for _ in range(n)]


def module(**changes):
    torch.default_generator.manual_seed(0)
    arguments = {
        "space": Space(),
        "relaxation": GumbelSoftmax(),
        "tau": Constant(1.0),
        "task": Classification(2),
        "weight_optimizer": partial(torch.optim.SGD, lr=0.1),
        "arch_optimizer": partial(torch.optim.SGD, lr=0.2),
    } | changes
    return nas.SearchModule(**arguments)


def test_alpha_starts_at_the_last_labels():
    search = module(start_logit=2.0)
    assert search.supernet.alpha.tolist() == [[0.0, 2.0], [0.0, 2.0]]
    assert search.supernet.alpha.requires_grad and not module().supernet.alpha.any()


def train(search, data, tmp_path, epochs=1):
    options = trainer.TrainerOptions(max_epochs=epochs, accelerator="cpu")
    loader = cast(Any, torch.utils.data.DataLoader(data, batch_size=None))
    trainer.train(trainer.make_trainer(options), options, search, loader, RunFolder(tmp_path), "test", "again")


def expected_step(search, batch, joint, penalty=0.0):
    """One step by hand, on deep copies of the parameters."""
    supernet = search.supernet
    (xw, yw), (xa, ya) = batch
    weights = list(supernet.network.parameters())

    def loss(level, x, y):
        return F.cross_entropy(supernet(x, op_weights=SearchStep(search, {level: (x, y)}).draw(level)), y)

    def probabilities_entropy():
        return entropy(torch.softmax(supernet.alpha, -1)).mean()

    if joint:
        total = loss("weight", xw, yw)
        grads = torch.autograd.grad(total, [*weights, supernet.alpha])
        return [w - 0.1 * g for w, g in zip(weights, grads, strict=False)], supernet.alpha - 0.2 * grads[-1]
    total = loss("arch", xa, ya) + penalty * probabilities_entropy()
    (grad,) = torch.autograd.grad(total, [supernet.alpha])
    alpha = (supernet.alpha - 0.2 * grad).detach()
    with torch.no_grad():
        before = supernet.alpha.clone()
        supernet.alpha.copy_(alpha)
    grads = torch.autograd.grad(loss("weight", xw, yw), weights)
    with torch.no_grad():
        supernet.alpha.copy_(before)
    return [w - 0.1 * g for w, g in zip(weights, grads, strict=True)], alpha


@pytest.mark.parametrize(("joint", "weight"), [(False, 0.0), (False, -0.7), (True, 0.0)])
def test_one_step_is_the_stated_one(tmp_path, joint, weight):
    data = batches()
    # alpha off the maximum of the entropy, where its gradient would be 0
    searches = [module(bilevel=Joint() if joint else FirstOrder(), regularizers=[Entropy(weight)]) for _ in range(2)]
    for search in searches:
        with torch.no_grad():
            search.supernet.alpha.copy_(torch.tensor([[0.5, -0.5], [1.0, 0.0]]))
    search, twin = searches
    # a draw depends on the place in the search
    twin._trainer = cast(Any, SimpleNamespace(max_epochs=1, num_training_batches=1, current_epoch=0, global_rank=0))
    weights, alpha = expected_step(twin, data[0], joint, weight)
    train(search, data, tmp_path)
    torch.testing.assert_close(search.supernet.alpha, alpha, atol=1e-6, rtol=1e-5)  # float32, one step
    for got, wanted in zip(search.supernet.network.parameters(), weights, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_a_space_of_networks_in_eval_mode_is_searched_in_train_mode(tmp_path):
    class Normed(Space):
        def __init__(self, training):
            self.training = training

        def network(self, stage="search"):
            return nn.Sequential(super().network(stage), nn.BatchNorm1d(2), nn.Dropout(0.5)).train(self.training)

    searches = [module(space=Normed(training)) for training in (True, False)]
    for number, search in enumerate(searches):
        train(search, batches(3), tmp_path / str(number))
    states = [search.supernet.state_dict() for search in searches]
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key
    assert states[1]["network.1.num_batches_tracked"] == 6


def test_warmup_leaves_alpha_at_rest(tmp_path):
    search = module(warmup_epochs=2)
    train(search, batches(3), tmp_path, epochs=2)
    assert (search.supernet.alpha == 0).all() and search.num_batches_done == 6
    train(module_after := module(warmup_epochs=1), batches(3), tmp_path / "b", epochs=2)
    assert (module_after.supernet.alpha != 0).any()


def test_parameter_sets_are_disjoint_and_complete():
    class Learned(TauSchedule):
        def __init__(self):
            super().__init__()
            self.log_tau = nn.Parameter(torch.zeros(()))

        def forward(self, progress):
            return self.log_tau.exp()

    search = module(tau=Learned())
    weights, arch = ({id(p) for p in group} for group in (search.weight_parameters(), search.arch_parameters()))
    assert not weights & arch
    assert weights | arch == {id(p) for p in search.parameters()}
    assert id(search.tau.log_tau) in arch and id(search.supernet.alpha) in arch


def test_a_learned_tau_is_trained_and_observed(tmp_path):
    class Learned(TauSchedule):
        def __init__(self):
            super().__init__()
            self.log_tau = nn.Parameter(torch.zeros(()))
            self.seen = []

        def forward(self, progress):
            return self.log_tau.exp()

        def observe(self, mean_entropy, progress):
            self.seen.append((mean_entropy, progress))

    search = module(tau=Learned())
    train(search, batches(4), tmp_path, epochs=2)
    assert search.tau.log_tau.item() != 0
    assert [progress for _, progress in search.tau.seen] == [0.5, 1.0]
    assert all(0 < value <= 0.6931472 for value, _ in search.tau.seen)  # at most log 2


def test_after_arch_step_is_called_with_the_sample_of_that_step(tmp_path):
    class Watching(Relaxation):
        def __init__(self):
            super().__init__()
            self.calls = []

        def forward(self, logits, tau, *, mask=None, generator=None):
            return GumbelSoftmax()(logits, tau, mask=mask, generator=generator)

        def after_arch_step(self, alpha, sample):
            self.calls.append((alpha.detach().clone(), sample.weights.detach()))

    search = module(relaxation=Watching())
    train(search, batches(3), tmp_path)
    assert len(search.relaxation.calls) == 3
    assert torch.equal(search.relaxation.calls[-1][0], search.supernet.alpha)


def test_a_space_without_choices_trains_its_weights(tmp_path):
    class Plain(nas.SearchSpace):
        def network(self, stage="search"):
            return nn.Linear(3, 2)

    search = module(space=Plain())
    before = search.supernet.network.weight.detach().clone()
    train(search, batches(2), tmp_path)
    assert not torch.equal(before, search.supernet.network.weight)
    assert search.arch_parameters() == [] and search.scalars()["search/entropy"] is None


def test_regression_searches_too(tmp_path):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, generator=g)
    data = [((x, x[:, :2]), (x, x[:, :2]))] * 40
    search = module(task=Regression(), relaxation=SampledPath())
    train(search, data, tmp_path, epochs=2)
    assert set(search.scalars()) >= {
        "weight/mse",
        "weight/mae",
        "arch/mse",
        "search/tau",
        "choice/a/lin",
        "entropy/b",
        "lr/arch",
    }
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("weight/loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[1] < losses[0]


def test_gradients_of_weights_are_clipped(tmp_path):
    data = batches()
    free, clipped = module(), module(gradient_clip_norm=1e-3)
    start = [p.detach().clone() for p in free.weight_parameters()]
    for name, search in (("free", free), ("clipped", clipped)):
        train(search, data, tmp_path / name)

    def moved(search):
        return (
            torch.cat([(p - q).flatten() for p, q in zip(search.weight_parameters(), start, strict=True)]).norm().item()
        )

    assert moved(clipped) == pytest.approx(0.1 * 1e-3, rel=1e-3) and moved(free) > 10 * moved(clipped)
    assert torch.equal(free.supernet.alpha, clipped.supernet.alpha)


@pytest.mark.parametrize(
    ("changes", "message"), [({"warmup_epochs": -1}, "warmup_epochs"), ({"gradient_clip_norm": 0.0}, "clip")]
)
def test_bad_options(changes, message):
    with pytest.raises(ValueError, match=message):
        module(**changes)


def test_schedules():
    def rates(name, steps=10):
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = make_lr_scheduler(name, optimizer, steps)
        values = []
        for _ in range(steps):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step() if len(values) < steps else None
        return values

    assert rates("constant") == [0.1] * 10
    cosine = rates("cosine")
    assert cosine[0] == 0.1 and cosine[5] == pytest.approx(0.05) and cosine == sorted(cosine, reverse=True)
    one = rates("one_cycle")
    assert max(one) == pytest.approx(0.1) and one[0] == pytest.approx(0.1 / 25) and one[-1] < 1e-5
    with pytest.raises(ValueError, match="unknown learning-rate schedule 'step'"):
        make_lr_scheduler("step", torch.optim.SGD([nn.Parameter(torch.zeros(1))]), 1)


def test_entropy_of_known_distributions():
    rows = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], requires_grad=True)
    values = entropy(rows)
    torch.testing.assert_close(values, torch.tensor([4.0, 1.0, 2.0]).log())
    (gradient,) = torch.autograd.grad(values.sum(), rows)
    assert torch.isfinite(gradient).all()


def test_one_cycle_leaves_momentum_alone():
    parameter = nn.Parameter(torch.zeros(1))
    for optimizer, key in (
        (torch.optim.Adam([parameter], betas=(0.5, 0.999)), "betas"),
        (torch.optim.SGD([parameter], lr=0.1), "momentum"),
    ):
        before = optimizer.param_groups[0][key]
        scheduler = make_lr_scheduler("one_cycle", optimizer, 10)
        parameter.grad = torch.ones(1)
        for _ in range(5):
            optimizer.step()
            scheduler.step()
        assert optimizer.param_groups[0][key] == before


def test_frozen_weights_stay_and_the_rest_is_searched(tmp_path):
    class Frozen(Space):
        def network(self, stage="search"):
            return nn.Sequential(nn.Linear(3, 3).requires_grad_(False), super().network())

    search = module(space=Frozen())
    frozen, moving = (
        search.supernet.network[0].weight.clone(),
        search.supernet.network[1][1].candidates[0].weight.clone(),
    )
    train(search, batches(2), tmp_path)
    assert torch.equal(search.supernet.network[0].weight, frozen)
    assert not torch.equal(search.supernet.network[1][1].candidates[0].weight, moving)
    assert bool(search.supernet.alpha.any())


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.LBFGS, torch.optim.SparseAdam, partial(torch.optim.SGD, lr=-1.0)],
)
def test_optimizers_that_cannot_be_stepped_are_refused(optimizer):
    for name in ("weight_optimizer", "arch_optimizer"):
        with pytest.raises(ValueError, match=f"{name} cannot be used"):
            module(**{name: optimizer})


def test_noise_per_sample_draws_for_each_sample(tmp_path):
    search = module(noise="sample", bilevel=Joint())
    train(search, batches(2), tmp_path)
    sample = SearchStep(search, {"weight": batches()[0][0]}).draw("weight")
    assert sample.weights.shape == (2, 8, 2) and not torch.equal(sample.weights[:, 0], sample.weights[:, 1])
    assert bool(search.supernet.alpha.any())


class Counting(nas.SearchSpace):
    """Batch norms count the batches that they saw."""

    def network(self, stage="search"):
        body = {label: partial(self.candidate) for label in "pqr"}
        return nn.Sequential(
            nas.choice("a", body), nas.choice("b", {"x": nn.Identity, "y": self.candidate}), nn.Linear(3, 2)
        )

    def candidate(self):
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize(
    ("num_paths", "epochs", "expected"), [(1, 6, [2, 2, 2, 3]), (2, 3, [2, 2, 2, 3]), (3, 4, [4, 4, 4, 6])]
)
def test_warm_up_trains_all_candidates_equally_often(tmp_path, num_paths, epochs, expected):
    g = torch.Generator().manual_seed(0)
    pair = [(torch.randn(9, 3, generator=g), torch.randint(0, 2, (9,), generator=g)) for _ in range(2)]
    search = module(
        space=Counting(), relaxation=SampledPath(), warmup_epochs=epochs, warmup_paths=Fair(), num_paths=num_paths
    )
    train(search, [tuple(pair)], tmp_path, epochs=epochs)
    norms = [m for m in search.supernet.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == expected
    assert not search.supernet.alpha.detach().any()


def test_after_the_warm_up_the_relaxation_draws(tmp_path):
    g = torch.Generator().manual_seed(0)
    pair = [(torch.randn(8, 3, generator=g), torch.randint(0, 2, (8,), generator=g)) for _ in range(2)]
    search = module(relaxation=SampledPath(), warmup_epochs=1, warmup_paths=Fair())
    train(search, [tuple(pair)], tmp_path, epochs=3)
    assert search.supernet.alpha.detach().abs().min() > 0


def test_stratified_paths_train_the_weights_after_the_warm_up_too(tmp_path):
    """By the learned distribution: with a decided alpha, all paths of the weights are its mode; alpha's own draws stay relaxed."""
    search = module(relaxation=GumbelSoftmax(), warmup_epochs=1, warmup_paths=Stratified(), num_paths=2)
    train(search, batches(2), tmp_path, epochs=2)
    with torch.no_grad():
        search.supernet.alpha.copy_(torch.tensor([[0.0, 50.0], [50.0, 0.0]]))
    after = Moment(batch=7, progress=0.5, warm_up=False, rank=0)
    for part in range(2):
        path = search.sampling.draw("weight", after, 8, part)
        assert path.unit_weights and path.weights.tolist() == [[0, 1], [1, 0]]
    assert search.sampling.draw("arch", after, 8).active is None
    with torch.no_grad():
        search.supernet.alpha.zero_()
    both = [search.sampling.draw("weight", after, 8, part).weights for part in range(2)]
    assert torch.equal(both[0] + both[1], torch.ones(2, 2))  # strict fairness at rest


def test_a_step_of_several_paths_descends_their_mean_loss(tmp_path):
    """Against one step by hand: uneven parts of 8 samples, each with the path of its number, weighted by their sizes."""
    g = torch.Generator().manual_seed(0)
    pair = [(torch.randn(8, 3, generator=g), torch.randint(0, 2, (8,), generator=g)) for _ in range(2)]
    search = module(space=Space(), relaxation=SampledPath(), warmup_epochs=1, warmup_paths=Fair(), num_paths=3)
    by_hand = module(space=Space()).supernet
    by_hand.load_state_dict(search.supernet.state_dict())
    x, y = pair[0]
    total = 0.0
    for part, (first, last) in enumerate([(0, 3), (3, 6), (6, 8)]):
        a, b = Fair().candidates([2, 2], part, search.seed)
        network = by_hand.network
        output = network[1].candidates[b](network[0].candidates[a](x[first:last]))
        total = total + nn.functional.cross_entropy(output, y[first:last], reduction="sum") / 8
    total.backward()
    optimizer = torch.optim.SGD([p for p in by_hand.network.parameters() if p.grad is not None], lr=0.1)
    optimizer.step()
    train(search, [tuple(pair)], tmp_path)
    for ours, theirs in zip(search.supernet.network.parameters(), by_hand.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert search.supernet.alpha.grad is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_paths": 0}, "at least 1"),
        ({"num_paths": 2, "noise": "sample"}, "num_paths must be 1 with noise: sample"),
        ({"num_paths": 2, "relaxation": TwoPath()}, "num_paths must be 1 with TwoPath"),
    ],
)
def test_paths_that_do_not_go_together_with_other_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        module(**changes)


def test_averaged_weights_are_the_moving_average_of_every_step(tmp_path):
    """Against the same average by hand; the first step's weights start it."""
    search = module(average_decay=0.75)
    steps = []
    descend = search.descend

    def noted(loss, levels, samples):
        descend(loss, levels, samples)
        if "weight" in levels:
            steps.append([p.detach().clone() for p in search.supernet.network.parameters()])

    search.descend = noted
    train(search, batches(5), tmp_path)
    expected = steps[0]
    for step in steps[1:]:
        expected = [0.75 * old + 0.25 * new for old, new in zip(expected, step, strict=True)]
    for ours, last in zip(search.supernet.network.parameters(), steps[-1], strict=True):
        assert torch.equal(ours, last)  # trained on as they are
    search.use_average()
    for ours, theirs in zip(search.supernet.network.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="average_decay must lie between 0 and 1"):
        module(average_decay=1.0)


@pytest.mark.parametrize("method", [FirstOrder, Joint])
@pytest.mark.parametrize("num_paths", [1, 2])
def test_a_step_in_micro_batches_is_the_step_with_the_whole_batch(tmp_path, method, num_paths):
    """Uneven parts too: 8 samples in 3, or in 2 paths of 2 each. Without norms, of float32's rounding only."""
    g = torch.Generator().manual_seed(0)
    data = [
        tuple((torch.randn(8, 3, generator=g), torch.randint(0, 2, (8,), generator=g)) for _ in range(2))
        for _ in range(3)
    ]
    searches = []
    for num_micro_batches in (1, 3 if num_paths == 1 else 2):
        search = module(
            bilevel=method(),
            regularizers=[Entropy(-0.5)],
            relaxation=GumbelSoftmax(),
            num_paths=num_paths,
            num_micro_batches=num_micro_batches,
        )
        train(search, data, tmp_path / str(num_micro_batches))
        searches.append(search)
    whole, parts = searches
    assert (whole.supernet.alpha != 0).any()
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def most_kept(num_micro_batches, tmp_path, monkeypatch):
    """The most bytes that autograd keeps of a part, which is descended before the next is computed."""
    g = torch.Generator().manual_seed(0)
    data = [tuple((torch.randn(512, 3, generator=g), torch.randint(0, 2, (512,), generator=g)) for _ in range(2))]
    search = module(num_micro_batches=num_micro_batches)
    weights = {p.untyped_storage().data_ptr() for p in search.parameters()}
    sizes, sums, losses = {}, [], SearchStep.losses

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    def watched(step, level):
        parts = losses(step, level)
        while True:
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                part = next(parts, None)
            if part is None:
                return
            sums.append(sum(sizes.values()))
            yield part

    monkeypatch.setattr(SearchStep, "losses", watched)
    train(search, data, tmp_path / str(num_micro_batches))
    monkeypatch.undo()
    assert len(sums) == 2 * num_micro_batches
    return max(sums)


def test_micro_batches_need_the_memory_of_one_part(tmp_path, monkeypatch):
    # an eighth, and a little that does not grow with the batch
    assert most_kept(8, tmp_path, monkeypatch) < 0.15 * most_kept(1, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_micro_batches": 0}, "at least 1"),
        ({"num_micro_batches": 2, "noise": "sample", "relaxation": GumbelSoftmax()}, "must be 1 with noise: sample"),
        (
            {"num_micro_batches": 2, "bilevel": Unrolled(), "weight_optimizer": lambda p: torch.optim.SGD(p, lr=0.1)},
            "must be 1 with Unrolled",
        ),
    ],
)
def test_micro_batches_that_do_not_go_together_with_other_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        module(**changes)
