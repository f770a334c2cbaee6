"""Searches inside a training loop of the user."""

import copy
import importlib
import shutil
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nas
from nas.alpha import Autoregressive, Pairwise
from nas.bilevel import Joint, ScoreFunction
from nas.costs.limits import Infeasible
from nas.io.rng import keyed_generator
from nas.relaxations import GumbelSoftmax, Softmax
from nas.tau import Constant

MODULE = """
from functools import partial
from torch import nn
import nas


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        convs = {f"kernel_{k}": partial(nn.Conv2d, 1, width, k, padding=k // 2) for k in (1, 3, 5)}
        self.conv = nas.choice("conv", convs)
        self.norm = nn.BatchNorm2d(width)
        self.act = nas.choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh})
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x))).flatten(2).amax(-1))
"""
STEPS = 12


@pytest.fixture
def net(tmp_path, monkeypatch):
    """The class Net, in a module that a later command can import."""
    (tmp_path / "own_net.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return importlib.import_module("own_net").Net


def batches(number, seed=0):
    """Images whose class is the size of a bright square."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        y = torch.randint(3, (16,), generator=generator)
        x = 0.3 * torch.randn(16, 1, 8, 8, generator=generator)
        for i, size in enumerate(y.tolist()):
            x[i, :, 2 : 3 + 2 * size, 2 : 3 + 2 * size] += 1.5
        yield x, y


def loss_of(network, x, y):
    return F.cross_entropy(network(x), y)


def run(searcher, number=STEPS, skip=0):
    """The loop of a user; returns the losses of the weights."""
    optimizer = torch.optim.SGD(searcher.network.parameters(), 0.1)
    losses = []
    for step, ((x, y), (arch_x, arch_y)) in enumerate(zip(batches(number), batches(number, seed=1), strict=True)):
        if step < skip:
            continue
        searcher.arch_step(partial(loss_of, searcher.network, arch_x, arch_y))
        with searcher.sampled():
            loss = loss_of(searcher.network, x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def make(net, **options):
    torch.manual_seed(0)
    return nas.Searcher(net, **{"num_steps": STEPS, **options})


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(hard=True), GumbelSoftmax(hard=False)], ids=["hard", "soft"])
def test_a_step_of_alpha_is_the_gradient_of_the_supernet_at_the_drawn_op_weights(net, relaxation):
    searcher = make(
        net, relaxation=relaxation, tau=Constant(0.7), arch_optimizer=partial(torch.optim.SGD, lr=0.5), seed=5
    )
    (x, y), supernet = next(batches(1)), searcher.supernet
    sample = supernet.sample(relaxation, 0.7, generator=keyed_generator(5, "noise/arch", 0))
    twin = copy.deepcopy(supernet)
    loss = F.cross_entropy(supernet(x, op_weights=sample), y)
    expected = supernet.alpha.detach() - 0.5 * torch.autograd.grad(loss, supernet.alpha)[0]
    supernet.load_state_dict(twin.state_dict())  # running statistics
    searcher._arch._version = None
    found = searcher.arch_step(lambda: F.cross_entropy(searcher.network(x), y))
    assert found.item() == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(supernet.alpha.detach(), expected)
    assert all(weight.grad is None for weight in searcher.network.parameters())


def test_a_sampled_step_trains_the_weights_at_its_draw_and_not_alpha(net):
    searcher = make(net, relaxation=GumbelSoftmax(), tau=Constant(0.7), seed=5)
    (x, y), supernet = next(batches(1)), searcher.supernet
    sample = supernet.sample(searcher.relaxation, 0.7, generator=keyed_generator(5, "noise/weight", 0))
    weights = list(searcher.network.parameters())
    expected = torch.autograd.grad(F.cross_entropy(supernet(x, op_weights=sample), y), weights)
    with searcher.sampled():
        first, second = searcher.network(x), searcher.network(x)
    (F.cross_entropy(first, y) / 2).backward()  # each call has a graph of its own
    (F.cross_entropy(second, y) / 2).backward()
    torch.testing.assert_close([weight.grad for weight in weights], list(expected))
    assert supernet.alpha.grad is None and searcher.num_steps_done == 1


def test_an_interrupted_step_does_not_count_and_leaves_the_network_as_it_was(net):
    searcher = make(net)
    x, _ = next(batches(1))
    with pytest.raises(KeyboardInterrupt), searcher.sampled():
        searcher.network(x)
        raise KeyboardInterrupt
    assert searcher.num_steps_done == 0
    with pytest.raises(RuntimeError, match="outside a supernet"):
        searcher.network(x)


@pytest.mark.parametrize(
    "alpha", [None, Autoregressive(), Pairwise()], ids=["factorised", "autoregressive", "pairwise"]
)
@pytest.mark.parametrize("bilevel", [None, ScoreFunction()], ids=["gradient", "score"])
def test_a_search_that_goes_on_is_bit_for_bit_that_of_an_undisturbed_one(net, alpha, bilevel):
    options = {"bilevel": bilevel, "warmup_steps": 2, "arch_schedule": "cosine", "limits": {"macs": 3000}}
    whole = make(net, alpha=copy.deepcopy(alpha), **options)
    losses = run(whole)
    first = make(net, alpha=copy.deepcopy(alpha), **options)
    run(first, 5)
    state = copy.deepcopy((first.state_dict(), first.network.state_dict()))
    second = make(net, alpha=copy.deepcopy(alpha), **options)
    second.network.load_state_dict(state[1])
    second.load_state_dict(state[0])
    assert run(second, skip=5) == losses[5:]
    torch.testing.assert_close(
        second.supernet.state_dict()["alpha"], whole.supernet.state_dict()["alpha"], rtol=0, atol=0
    )
    assert whole.supernet.alpha.abs().sum() > 0 and second.genotype.choices == whole.genotype.choices


def test_the_search_finds_the_kernel_that_sees_the_squares(net):
    searcher = make(net, num_steps=150, arch_optimizer=partial(torch.optim.Adam, lr=0.1))
    run(searcher, 150)
    assert searcher.supernet.probabilities()["conv"]["kernel_1"] < 0.1  # one pixel does not tell the sizes apart


def test_the_found_network_keeps_limits_and_computes_what_the_most_probable_architecture_does(net):
    def num_weights(network, inputs):
        return sum(weight.numel() for weight in network.parameters())

    searcher = make(net, limits={"macs": 64 * 4 * 9 + 12, num_weights: 100}, tau=Constant(0.1))
    with torch.no_grad():
        searcher.supernet.alpha[0, 2] = 9.0  # kernel_5 breaks the limit
    run(searcher)
    network = searcher.derive()
    x, _ = next(batches(1))
    assert nas.costs.functions.num_macs(network, [x]) <= 64 * 4 * 9 + 12
    assert num_weights(network, ()) <= 100 and type(network.conv) is nn.Conv2d
    network.eval(), searcher.network.eval()
    with searcher.most_probable(), torch.no_grad():
        torch.testing.assert_close(searcher.network(x), network(x))
    calibrated = searcher.derive(batches(3)).eval()
    assert not torch.equal(calibrated.norm.running_mean, network.norm.running_mean)


def test_networks_are_copied_and_pickled_during_a_search(net, tmp_path):
    first, x = make(net), next(batches(1))[0]
    run(first)
    torch.save(first.network, tmp_path / "net.pt")
    second = nas.Searcher(first.network, num_steps=STEPS)
    run(second)
    found = second.finish()
    torch.save(found, tmp_path / "found.pt")
    again = torch.load(tmp_path / "found.pt", weights_only=False).eval()
    assert torch.equal(again(x), found.eval()(x))
    second.network.eval()
    with torch.no_grad():
        torch.testing.assert_close(second.network(x), found(x))  # outside of a block
        second.detach()
        first.detach()
        with pytest.raises(RuntimeError, match="outside a supernet"):
            second.network(x)


def test_limits_that_no_architecture_keeps_end_the_search_after_the_first_call(net):
    with pytest.raises(Infeasible, match="no architecture has macs of at most 10; the smallest is 268"):
        run(make(net, limits={"macs": 10}))
    with pytest.raises(Infeasible):
        make(net, limits={"macs": 10}, inputs=[torch.zeros(1, 1, 8, 8)]).arch_step(lambda: None)


class Named(nn.Module):
    """Takes its inputs by keyword, and returns a dict."""

    def __init__(self):
        super().__init__()
        self.layer = nas.choice("layer", {"small": partial(nn.Linear, 4, 2), "large": Bottleneck})

    def forward(self, *, first, second=None):
        return {"logits": self.layer(first) + (0 if second is None else second.mean(1, keepdim=True))}


class Bottleneck(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.Linear(8, 2))


def test_networks_are_called_by_keyword_and_return_what_they_like():
    searcher = make(Named, limits={"macs": 10})
    first, second = torch.randn(6, 4), torch.randn(6, 3)
    searcher.arch_step(lambda: searcher.network(first=first, second=second)["logits"].square().mean())
    with searcher.sampled():
        searcher.network(first=first, second=second)
    assert searcher.genotype.choices == {"layer": "small"}
    assert searcher.costs.tables["macs"].of({"layer": "large"}) == 4 * 8 + 8 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "warmup_steps must lie in"),
        ({"warmup_steps": STEPS}, "12 would never train alpha"),
        ({"bilevel": Joint()}, "Joint trains the weights too"),
        ({"limits": {"speed": 3}}, "unknown cost 'speed'"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"inputs": torch.zeros(1, 1, 8, 8)}, "inputs must be a list of the network's arguments, got a Tensor"),
        ({"limits": {"macs": -1}}, "macs.max must be a number above 0"),
        ({"limits": {nas.export_network: float("nan")}}, "export_network must be a number above 0"),
    ],
)
def test_bad_options(net, options, message):
    with pytest.raises(ValueError, match=message):
        make(net, **options)


def test_bad_networks_and_losses(net):
    with pytest.raises(ValueError, match="Linear has no choices"):
        make(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"'k' of nas\.width or nas\.value reaches no layer"):
        make(lambda: nn.Sequential(net(), *[nn.ReLU() for _ in range(nas.value("k", (1, 3)))]))
    (x, y), searcher = next(batches(1)), make(net)
    for loss, message in (
        (lambda: None, "must be one number .* got NoneType"),
        (lambda: searcher.network(x), r"got shape \(16, 3\)"),
        (lambda: torch.zeros(()), "does not call the searched network"),
        (lambda: searcher.network(x).detach().sum(), "has no gradient"),
    ):
        with pytest.raises(ValueError, match=message):
            searcher.arch_step(loss)
    with pytest.raises(FloatingPointError, match="the loss of alpha is not finite at step 0"):
        searcher.arch_step(lambda: F.cross_entropy(searcher.network(x), y) * float("nan"))
    assert not searcher.supernet.alpha.any()
    optimizer = torch.optim.SGD([*searcher.network.parameters(), *searcher.supernet.arch_parameters()], 0.1)
    searcher.arch_step(lambda: F.cross_entropy(searcher.network(x), y))
    with searcher.sampled():
        F.cross_entropy(searcher.network(x), y).backward()
    searcher.supernet.alpha.grad = torch.ones_like(searcher.supernet.alpha)
    optimizer.step()
    with pytest.raises(ValueError, match="an optimizer of the loop holds it"), searcher.sampled():
        pass
    other = make(Named)
    with pytest.raises(ValueError, match=r"conv|layer"):
        other.load_state_dict(searcher.state_dict())
    compiled = make(net)
    compiled.network.conv.compile()
    with pytest.raises(ValueError, match="the network is compiled"), compiled.sampled():
        pass


def test_commands_read_the_run_folder(net, tmp_path, run_cli):
    searcher = make(net, out="run", limits={"macs": 3000})
    run(searcher)
    network = searcher.finish(accuracy=0.5).eval()
    trust = ("--trust-module", "own_net")
    assert run_cli("report", "--run", "run").code == 0
    answer = run_cli("evaluate", "--run", "run", *trust, "--json")
    macs = nas.costs.functions.num_macs(network, [torch.zeros(1, 1, 8, 8)])
    assert answer.result["accuracy"] == 0.5 and answer.result["macs"] == macs <= 3000
    answer = run_cli("derive", "--run", "run", "--out", "again.json", "--json")
    assert (
        answer.result["genotype"]
        == dict(searcher.genotype.choices)
        == nas.Genotype.load(tmp_path / "again.json").choices
    )
    assert run_cli("export", "--run", "run", *trust, "--formats", "python,safetensors,pt2").code == 0
    assert run_cli("export", "--verify", "run/export").code == 0
    x, _ = next(batches(1))
    for loaded in (nas.load("run", trust_modules=["own_net"]), nas.Run("run", trust_modules=["own_net"]).network()):
        assert torch.equal(loaded(x), network(x))
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + STEPS and {"arch/loss", "search/tau", "cost/macs"} <= set(rows[0].split(","))
    for words in (
        ["retrain", "--run", "run"],
        ["search", "--config", "run/config.yaml"],
        ["profile", "--config", "run/config.yaml"],
    ):
        assert "training code of your own" in run_cli(*words, *trust).complaint
    assert "Ranked needs its data" in run_cli("derive", "--run", "run", "--strategy", "nas.derive.Ranked").complaint
    for strategy in ("nas.derive.Argmax", {"class_path": "nas.derive.Argmax"}, nas.derive.Argmax()):
        assert nas.Run("run").derive(strategy=strategy)["genotype"] == answer.result["genotype"]
    shutil.copytree("run", "twin")
    answer = run_cli("compare", "run", "twin", "--json")
    assert all(row["equal"] for row in answer.result["curves"]) and answer.result["configuration"] == []
    assert "add --trust-module own_net" in run_cli("export", "--run", "run", "--out", "x").complaint
    with pytest.raises(ValueError, match="exists already"):
        run(make(net, out="run"))


def test_a_folder_goes_on_at_its_step(net, tmp_path):
    whole = make(net, out="whole")
    run(whole)
    whole.finish()
    first = make(net, out="parts")
    run(first, 7)
    state = copy.deepcopy((first.state_dict(), first.network.state_dict()))
    run(first, 9, skip=7)  # rows that the checkpoint does not know
    second = make(net, out="parts")
    second.network.load_state_dict(state[1])
    second.load_state_dict(state[0])
    run(second, skip=7)
    second.finish()
    for name in ("metrics.csv", "genotype.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_network_that_cannot_be_made_again_is_named_at_once(net, tmp_path):
    with pytest.warns(UserWarning, match=r"cannot tell how Net is made: a new one has other choices or weights"):
        searcher = make(net(5), out="run")
    run(searcher)
    searcher.finish()
    with pytest.raises(ValueError, match="does not know how its network is made"):
        nas.load("run", trust_modules=["own_net"])
    with pytest.warns(UserWarning, match="is not made by a class or function of a module"):
        make(lambda: net(5), out="other")
    with pytest.warns(UserWarning, match="its argument width is not a plain value"):
        make(partial(net, width=torch.tensor(4)), out="other")
    assert make(partial(net, width=5), out="other").run.values["model"]["space"]["init_args"]["network"] == {
        "class_path": "own_net.Net",
        "init_args": {"width": 5},
    }


def test_softmax_has_no_noise(net):
    searcher = make(net, relaxation=Softmax())
    assert run(searcher) == run(make(net, relaxation=Softmax(), seed=3))
