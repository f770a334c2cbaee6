import copy
import io
import math
import os
import socket
from functools import partial

import pytest
import torch
from torch import nn

import nas
from nas.relaxations import GumbelSoftmax, OpWeights, SampledPath, Softmax
from nas.supernet.selection import start_at_last
from nas.testing import random_choices


class Block(nn.Module):
    """Nested, shared and contained choices, batch norm, two inputs and a keyword."""

    def __init__(self):
        super().__init__()
        self.first = nas.choice(
            "first",
            {
                "linear": partial(nn.Linear, 6, 6),
                "deep": lambda: nn.Sequential(nas.choice("inner", {"relu": nn.ReLU, "tanh": nn.Tanh}), nn.Linear(6, 6)),
                "norm": lambda: nn.BatchNorm1d(6),
            },
        )
        self.cells = nn.ModuleDict(
            {
                key: nas.choice("cell", {"a": partial(nn.Linear, 6, 6), "b": nn.Identity}, shared=True)
                for key in ("left", "right")
            }
        )

    def forward(self, x, y, *, scale=1.0):
        return self.cells["right"](torch.tanh(self.cells["left"](self.first(x)))) * scale + y


@pytest.fixture
def supernet():
    torch.default_generator.manual_seed(0)
    return nas.Supernet(Block())


def inputs(seed=1, size=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(size, 6, generator=g), torch.randn(size, 6, generator=g)


def test_choices_are_found_wherever_they_are(supernet):
    assert supernet.choices == {"first": ("linear", "deep", "norm"), "inner": ("relu", "tanh"), "cell": ("a", "b")}
    assert supernet.alpha.shape == (3, 3)
    assert supernet.mask.tolist() == [[True] * 3, [True, True, False], [True, True, False]]


def test_a_start_at_the_last_labels_prefers_the_whole_network():
    widths = nn.Linear(4, nas.width("width", [8, 16, 32]))
    supernet = nas.Supernet(nn.Sequential(widths, nas.gate("gate", partial(nn.Linear, 2), elements=["a", "b"])))
    start_at_last(supernet, 6.0)
    of = supernet.probabilities()
    width = of["width"]
    assert width["32"] / width["16"] == pytest.approx(math.exp(3.0), rel=1e-5)  # float32
    assert width["16"] / width["8"] == pytest.approx(math.exp(3.0), rel=1e-5)
    assert of["gate.a"]["keep"] / of["gate.a"]["drop"] == pytest.approx(math.exp(6.0), rel=1e-5)
    start_at_last(supernet, 0.0)
    assert not supernet.alpha.any()


def test_number_of_architectures_equals_enumeration(supernet):
    seen = {tuple(sorted(random_choices(supernet, seed).items())) for seed in range(500)}
    assert supernet.num_architectures == len(seen) == (1 + 2 + 1) * 2


def test_output_is_the_weighted_sum(supernet):
    x, y = inputs()
    supernet.eval()
    sample = supernet.sample(GumbelSoftmax(), 1.0, generator=torch.Generator().manual_seed(3))
    w = {name: row for name, row in zip(supernet.choices, sample.weights, strict=True)}
    net = supernet.network
    linear, deep, norm = net.first.candidates
    inner = w["inner"][0] * torch.relu(x) + w["inner"][1] * torch.tanh(x)
    h = w["first"][0] * linear(x) + w["first"][1] * deep[1](inner) + w["first"][2] * norm(x)
    for key in ("left", "right"):
        cell = net.cells[key]
        h = w["cell"][0] * cell.candidates[0](h) + w["cell"][1] * h
        h = torch.tanh(h) if key == "left" else h
    # the same float32 sum in the same order, up to fused multiply-adds
    torch.testing.assert_close(supernet(x, y, op_weights=sample, scale=2.0), h * 2.0 + y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_one_hot_supernet_equals_derived_and_fresh_keys(supernet, seed):
    x, y = inputs()
    supernet.train()
    supernet(x, y, op_weights=supernet.sample(Softmax(), 1.0))  # moves batch-norm statistics
    supernet.eval()
    choices = random_choices(supernet, seed)
    derived = supernet.derive(choices)
    for run_all in (True, False):
        mixed = supernet(x, y, op_weights=supernet.one_hot(choices, run_all=run_all))
        assert torch.equal(mixed, derived(x, y))
    with nas.architecture(choices):
        fresh = Block()
    assert list(fresh.state_dict()) == list(derived.state_dict())
    assert not any(isinstance(m, nas.MixedOp) for net in (fresh, derived) for m in net.modules())


def test_derived_weights_are_copies(supernet):
    derived = supernet.derive({"first": "linear", "cell": "a"})
    with torch.no_grad():
        for parameter in derived.parameters():
            parameter.zero_()
    assert all(bool(p.any()) for p in supernet.network.first.candidates[0].parameters())


def test_tied_weights_stay_tied_in_the_derived_network():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            shared = nn.Linear(3, 3)
            self.a = shared
            self.c = nas.choice("c", {"again": shared, "not": nn.Identity})

    derived = nas.Supernet(Tied()).derive({"c": "again"})
    assert derived.a is derived.c


def test_a_choice_may_be_the_whole_network():
    supernet = nas.Supernet(nas.choice("only", {"a": nn.ReLU, "b": nn.Tanh}))
    assert isinstance(supernet.derive({"only": "b"}), nn.Tanh)


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), GumbelSoftmax(hard=True), SampledPath()])
def test_deepcopy_and_state_dict_after_a_step(supernet, relaxation):
    x, y = inputs()
    optimizer = torch.optim.Adam(supernet.parameters(), lr=0.1)
    supernet(x, y, op_weights=supernet.sample(relaxation, 1.0)).sum().backward()
    optimizer.step()
    twin = copy.deepcopy(supernet)
    buffer = io.BytesIO()
    torch.save(supernet.state_dict(), buffer)
    buffer.seek(0)
    other = nas.Supernet(Block())
    other.load_state_dict(torch.load(buffer, weights_only=True))
    supernet.eval()
    sample = OpWeights(torch.softmax(supernet.alpha, -1))
    for copied in (twin, other):
        assert torch.equal(copied.eval()(x, y, op_weights=sample), supernet(x, y, op_weights=sample))
        assert torch.equal(copied.alpha, supernet.alpha)


def gradients(supernet, total):
    parameters = list(supernet.parameters())
    return torch.autograd.grad(total, parameters, allow_unused=True)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), SampledPath()])
def test_interleaved_forwards_have_the_gradients_of_each_alone(checkpoint, relaxation):
    torch.default_generator.manual_seed(0)
    supernet = nas.Supernet(Block(), checkpoint_candidates=checkpoint, fold_weights=False)
    plain = copy.deepcopy(supernet)
    plain.checkpoint_candidates = False

    def loss(net, seed):
        sample = net.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(seed))
        return net(*inputs(seed), op_weights=sample).square().sum()

    alone = [gradients(plain, loss(plain, seed)) for seed in (1, 2)]
    losses = [loss(supernet, seed) for seed in (1, 2)]
    together = [gradients(supernet, total) for total in losses]
    for expected, got in zip(alone, together, strict=True):
        for a, b in zip(expected, got, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)  # float32, other order of additions


def test_checkpointing_saves_fewer_activations():
    def saved(checkpoint):
        supernet = nas.Supernet(Block(), checkpoint_candidates=checkpoint, fold_weights=False)
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            supernet(*inputs(size=64), op_weights=supernet.sample(Softmax(), 1.0))
        return total

    assert saved(True) < 0.7 * saved(False)


def test_unsampled_candidates_neither_run_nor_get_gradients():
    calls = []

    class Spy(nn.Linear):
        def forward(self, x):
            calls.append(self)
            return super().forward(x)

    supernet = nas.Supernet(nas.choice("c", {str(i): partial(Spy, 3, 3) for i in range(4)}))
    x = torch.randn(2, 3)
    supernet(x, op_weights=supernet.sample(SampledPath(), 1.0))  # the first forward looks at all shapes
    calls.clear()
    sample = supernet.sample(SampledPath(), 1.0)
    supernet(x, op_weights=sample).sum().backward()
    chosen = int(sample.weights.argmax())
    assert calls == [supernet.network.candidates[chosen]]
    for k, candidate in enumerate(supernet.network.candidates):
        assert (candidate.weight.grad is not None) == (k == chosen)
    assert supernet.alpha.grad.abs().sum() > 0


def test_sampled_gradient_is_the_jacobian_of_the_soft_weights_at_the_ran_candidate():
    """Closed form: only <dy, y_s> flows, through softmax's Jacobian; no spurious gradient from candidates that did not run."""
    supernet = nas.Supernet(nas.choice("c", {str(i): partial(nn.Linear, 3, 3) for i in range(4)})).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    tau = 0.8
    sample = supernet.sample(SampledPath(), tau, generator=torch.Generator().manual_seed(5))
    supernet(x, op_weights=sample).sum().backward()
    soft = GumbelSoftmax()(supernet.alpha.detach(), tau, generator=torch.Generator().manual_seed(5))[0]
    s = int(sample.weights.argmax())
    upstream = torch.zeros(4, dtype=torch.float64)
    upstream[s] = supernet.network.candidates[s](x).sum()
    expected = soft * (upstream - (soft * upstream).sum()) / tau
    torch.testing.assert_close(supernet.alpha.grad[0], expected, atol=1e-12, rtol=1e-9)  # float64


def test_first_sampled_forward_leaves_no_trace():
    """Looking at the shapes of idle candidates changes neither buffers nor random state."""

    def build():
        torch.default_generator.manual_seed(0)
        return nas.Supernet(
            nas.choice("c", {"norm": partial(nn.BatchNorm1d, 3), "drop": nn.Dropout, "id": nn.Identity})
        ).train()

    x = torch.randn(4, 3)
    supernet = build()
    torch.default_generator.manual_seed(7)
    supernet(x, op_weights=supernet.one_hot({"c": "id"}, run_all=False))
    after = torch.rand(1)
    torch.default_generator.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    fresh = build().state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in supernet.state_dict().items())
    assert all(module.training for module in supernet.modules())


@pytest.mark.parametrize("sampled", [False, True])
def test_different_output_shapes_are_refused_at_the_first_forward(sampled):
    supernet = nas.Supernet(nas.choice("width", {"three": partial(nn.Linear, 4, 3), "five": partial(nn.Linear, 4, 5)}))
    sample = supernet.one_hot({"width": "three"}, run_all=not sampled)
    with pytest.raises(ValueError, match=r"'width'.*three: \(2, 3\), five: \(2, 5\)"):
        supernet(torch.randn(2, 4), op_weights=sample)


def test_tuples_are_refused_where_one_tensor_is_needed():
    def choice():
        return nas.choice("rnn", {"gru": partial(nn.GRU, 4, 4), "other": partial(nn.GRU, 4, 4, bias=False)})

    supernet = nas.Supernet(choice(), checkpoint_candidates=True)
    with pytest.raises(ValueError, match=r"'rnn': candidate 'gru' must return one tensor, got tuple"):
        supernet(torch.randn(2, 4), op_weights=supernet.sample(Softmax(), 1.0))
    supernet = nas.Supernet(choice())
    with pytest.raises(ValueError, match=r"'rnn': noise per sample needs candidates that return one tensor"):
        supernet(torch.randn(2, 4), op_weights=supernet.sample(Softmax(), 1.0, num_samples=2))


def test_outside_a_supernet_a_choice_refuses_and_the_context_is_cleared_after_errors():
    mixed = nas.choice("lonely", {"a": nn.ReLU, "b": partial(nn.Linear, 2, 2)})
    x = torch.randn(2, 2)
    with pytest.raises(RuntimeError, match="choice 'lonely' was called outside a supernet"):
        mixed(x)
    supernet = nas.Supernet(mixed)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        supernet(torch.randn(2, 3), op_weights=supernet.sample(Softmax(), 1.0))
    with pytest.raises(RuntimeError, match="'lonely' was called outside"):
        mixed(x)


def test_a_choice_hidden_from_the_supernet_is_named():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.ops = [nas.choice("hidden", {"a": nn.ReLU, "b": nn.Tanh})]
            self.seen = nas.choice("seen", {"a": nn.ReLU, "b": nn.Tanh})

        def forward(self, x):
            return self.ops[0](self.seen(x))

    supernet = nas.Supernet(Hidden())
    with pytest.raises(RuntimeError, match="'hidden' was called in a supernet that does not own it"):
        supernet(torch.randn(2, 2), op_weights=supernet.sample(Softmax(), 1.0))


def two_choices(second_name="b", labels=("x", "y")):
    return nn.Sequential(
        nas.choice("a", {"x": nn.ReLU, "y": nn.Tanh}), nas.choice(second_name, dict.fromkeys(labels, nn.ReLU))
    )


@pytest.mark.parametrize("other", [two_choices("c"), two_choices("b", ("x", "z")), two_choices("b", ("y", "x"))])
def test_state_dict_of_other_choices_is_refused_and_nothing_loaded(other):
    supernet = nas.Supernet(two_choices())
    with torch.no_grad():
        supernet.alpha.fill_(3.0)
    with pytest.raises(ValueError, match="other choices"):
        supernet.load_state_dict(nas.Supernet(other).state_dict())
    assert (supernet.alpha == 3.0).all()


def test_a_name_used_twice_names_both_places():
    with pytest.raises(ValueError, match=r"'a' is used twice, at '0' and '1'"):
        nas.Supernet(two_choices("a"))


def test_shared_choices_must_agree_in_labels():
    net = nn.Sequential(
        nas.choice("a", {"x": nn.ReLU, "y": nn.Tanh}, shared=True),
        nas.choice("a", {"x": nn.ReLU, "z": nn.Tanh}, shared=True),
    )
    with pytest.raises(ValueError, match=r"shared choice 'a' has labels \['x', 'y'\]"):
        nas.Supernet(net)


def test_a_network_without_choices_is_a_supernet_too():
    class Assign(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(3, 4)

        def forward(self, x):
            return nas.sample(self.score(x))

    supernet = nas.Supernet(Assign())
    assert supernet.arch_parameters() == [] and supernet.num_architectures == 1
    x = torch.randn(5, 3)
    draws = [
        supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 0.5, generator=torch.Generator().manual_seed(s)))
        for s in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    torch.testing.assert_close(draws[0].sum(-1), torch.ones(5), atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError, match="no relaxation drew"):
        supernet(x, op_weights=OpWeights(supernet.alpha))
    with pytest.raises(RuntimeError, match="outside a supernet"):
        nas.sample(x)


def test_checkpointed_sampling_repeats_its_noise():
    class Draws(nn.Module):
        def __init__(self, checkpoint):
            super().__init__()
            self.score = nn.Linear(3, 4)
            self.checkpoint = checkpoint

        def forward(self, x):
            def part(x):
                return nas.sample(self.score(x)).square()

            first = nas.checkpoint(part, x) if self.checkpoint else part(x)
            return first + nas.sample(self.score(x))

    x = torch.randn(5, 3)
    results = []
    for checkpoint in (False, True):
        torch.default_generator.manual_seed(0)
        supernet = nas.Supernet(Draws(checkpoint))
        sample = supernet.sample(GumbelSoftmax(), 0.5, generator=torch.Generator().manual_seed(1))
        out = (supernet(x, op_weights=sample) * torch.arange(4)).sum()
        results.append((out, *torch.autograd.grad(out, supernet.weight_parameters())))
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-5)  # float32


def test_weights_per_sample_mix_each_sample_by_its_own_row(supernet):
    supernet.eval()
    x, y = inputs(size=2)
    architectures = [{"first": "linear", "cell": "a"}, {"first": "deep", "inner": "tanh", "cell": "b"}]
    rows = [supernet.one_hot(choices).weights for choices in architectures]
    mixed = supernet(x, y, op_weights=OpWeights(torch.stack(rows, dim=1)))
    for i, choices in enumerate(architectures):
        alone = supernet.derive(choices).eval()(x, y)[i]
        torch.testing.assert_close(mixed[i], alone, atol=1e-6, rtol=1e-5)  # a matrix product of another batch size


def test_op_weights_of_another_shape_are_refused(supernet):
    with pytest.raises(ValueError, match=r"must have shape \(3, 3\)"):
        supernet(*inputs(), op_weights=OpWeights(torch.ones(2, 3)))


def test_discretize_takes_the_most_probable_and_drops_the_inactive(supernet):
    with torch.no_grad():
        supernet.alpha.copy_(torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 9.0], [3.0, 1.0, 9.0]]))
    assert supernet.discretize().choices == {"first": "deep", "inner": "tanh", "cell": "a"}
    with torch.no_grad():
        supernet.alpha[0, 2] = 5.0
    assert supernet.discretize().choices == {"first": "norm", "cell": "a"}
    assert sum(supernet.probabilities()["inner"].values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"first": "linear"}, "no label for choice 'cell'"),
        ({"first": "linear", "cell": "z"}, "choice 'cell' has no candidate 'z'"),
        ({"first": "linear", "cell": ["a"]}, "choice 'cell' has no candidate"),
        ({"first": "linear", "cell": "a", "inner": "relu"}, "'inner' is inactive"),
        ({"first": "linear", "cell": "a", "other": "x"}, "unknown choice 'other'"),
    ],
)
def test_genotypes_that_do_not_fit_are_refused(supernet, choices, message):
    with pytest.raises(ValueError, match=message):
        supernet.derive(choices)


def _train_with_ddp(rank, port, path):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.default_generator.manual_seed(0)
    supernet = nas.Supernet(Block())
    ddp = nn.parallel.DistributedDataParallel(supernet)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05)
    losses = []
    for _ in range(10):
        generator = torch.Generator().manual_seed(0)
        sample = supernet.sample(GumbelSoftmax(), 1.0, generator=generator)
        loss = ddp(*inputs(10 + rank, 16), op_weights=sample).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.save({"alpha": supernet.alpha.detach(), "losses": losses}, f"{path}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_raw_ddp_of_a_soft_supernet_trains_alike_on_both_ranks(tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.start_processes(_train_with_ddp, (port, str(tmp_path)), nprocs=2, start_method="fork")
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert torch.equal(results[0]["alpha"], results[1]["alpha"]) and results[0]["alpha"].abs().sum() > 0
    assert all(result["losses"][-1] < result["losses"][0] for result in results)


def test_weights_of_more_samples_than_the_batch_are_refused(supernet):
    sample = supernet.sample(Softmax(), 1.0, num_samples=5)
    with pytest.raises(ValueError, match="op weights of 5 samples do not fit outputs of 1"):
        supernet(*inputs(size=1), op_weights=sample)


def test_more_running_candidates_than_a_choice_has_are_refused():
    class Three(SampledPath):
        num_active = 3

    net = nn.Sequential(nas.choice("a", dict.fromkeys("wxyz", nn.ReLU)), nas.choice("b", {"x": nn.ReLU, "y": nn.Tanh}))
    with pytest.raises(ValueError, match="Three runs 3 candidates, but a choice has only 2"):
        nas.Supernet(net).sample(Three(), 1.0)
    with pytest.raises(ValueError, match="SampledPath runs 1 of each choice"):
        nas.Supernet(net).sample(SampledPath(), 1.0, num_samples=4)
