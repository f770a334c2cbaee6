"""The soft step under torch.compile: one graph without a break, compiled once, with the results of eager mode."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import nas
from nas.bilevel import Unrolled
from nas.relaxations import GumbelSoftmax, SampledPath
from nas.runs import trainer
from nas.runs.folder import RunFolder
from nas.supernet.base import _TRACED, present_context
from nas.tasks import Classification
from nas.tau import Constant
from search_spaces.darts import Darts
from search_spaces.dilation import DilationNet1d
from search_spaces.nasbench201 import NASBench201

SMALL_DARTS: Any = {"search_channels": 4, "search_layers": 3, "channels": 4, "layers": 3, "num_nodes": 2}


class Everything(nn.Module):
    """A gate, a depth, a width, inputs, a choice inside a choice, and a relaxed sample of the network's own."""

    def __init__(self):
        super().__init__()
        self.depth = nas.repeat("depth", lambda i: nn.Linear(4, 4), (0, 1, 2))
        inner = partial(nas.choice, "inner", {"relu": nn.ReLU, "tanh": nn.Tanh})
        self.outer = nas.choice(
            "outer", {"nested": inner, "linear": lambda: nn.Linear(4, 4), "norm": lambda: nn.BatchNorm1d(4)}
        )
        width = nas.width("width", (2, 4))
        self.hidden, self.out = nn.Linear(4, width), nn.Linear(width, 4)
        edges = {f"from{i}": partial(nn.Linear, 4, 4) for i in range(3)}
        self.edges = nas.inputs("edges", edges, k=2)

    def forward(self, x):
        y = self.depth(x)
        z = self.outer(y)
        return self.edges([x, y, self.out(self.hidden(z).relu())])


class Joined(nn.Module):
    """Channels of two layers and of the input in one tensor."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm = nn.Linear(4, 8), nn.Linear(4, 8), nn.LayerNorm(20)
        self.hidden, self.out = nn.Linear(20, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.hidden(self.norm(torch.cat([self.left(x), x, self.right(x)], 1))).relu())


def converted():
    return nas.convert(Joined().eval(), torch.randn(2, 4), width=(0.5, 1.0), multiple=1)


SPACES = {
    "nasbench201": (NASBench201(channels=4, cells_per_stage=1).network, (3, 8, 8)),
    "dilation": (DilationNet1d(num_layers=2, channels=4).network, (1, 32)),
    "depthwise": (DilationNet1d(num_layers=2, channels=4, depthwise=True).network, (1, 32)),
    "darts": (Darts(**SMALL_DARTS).network, (3, 8, 8)),
    "everything": (Everything, (4,)),
    "converted": (converted, (4,)),
}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(supernet, x, sample):
    weights = sample.weights.detach().requires_grad_()
    y = supernet(x, op_weights=sample._replace(weights=weights))
    y.square().mean().backward()
    grads = {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}
    supernet.zero_grad()
    return {"y": y.detach(), "weights": weights.grad, **grads, **{n: b.clone() for n, b in supernet.named_buffers()}}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "darts" else name for name in SPACES]
)
def test_a_soft_step_is_one_graph_compiled_once(name):
    network, shape = SPACES[name]
    torch.manual_seed(0)
    supernet = nas.Supernet(network())
    twin = copy.deepcopy(supernet)
    supernet.compile(fullgraph=True, backend="aot_eager")
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(4, *shape, generator=generator)
        sample = supernet.sample(GumbelSoftmax(), 1.0, generator=generator)
        # the second call must not compile anew
        with torch._dynamo.config.patch(error_on_recompile=seed > 0):
            got = results(supernet, x, sample)
        assert present_context() is None and _TRACED.context is None
        expected = results(twin, x, sample)
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            # float32, and sums in another order
            room = 1e-5 * max(1.0, float(value.double().abs().max()))
            torch.testing.assert_close(got[key], value, rtol=1e-3, atol=room, msg=key)


class Space(nas.SearchSpace):
    def network(self, stage="search"):
        return nn.Sequential(
            nas.choice("a", {"lin": partial(nn.Linear, 3, 2), "bare": partial(nn.Linear, 3, 2, bias=False)})
        )


def search(**changes):
    arguments = {"space": Space(), "relaxation": GumbelSoftmax(), "tau": Constant(1.0), "task": Classification(2)}
    return nas.SearchModule(**arguments | changes)


def test_what_cannot_be_compiled_is_refused():
    for changes, name in (
        ({"relaxation": SampledPath()}, "SampledPath"),
        ({"bilevel": Unrolled(), "weight_optimizer": partial(torch.optim.SGD, lr=0.1)}, "Unrolled"),
        ({"checkpoint_candidates": True}, "checkpoint_candidates"),
    ):
        with pytest.raises(ValueError, match=f"compile: {name}.*set compile to off"):
            search(compile="default", **changes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not a leaf Tensor.*")  # torch looks at the .grad of every input of a graph
def test_a_compiled_search_learns_what_an_eager_one_does(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = [
        tuple(
            (torch.randn(8, 3, generator=generator), torch.randint(0, 2, (8,), generator=generator)) for _ in range(2)
        )
        for _ in range(4)
    ]
    found = []
    for compile in ("off", "default"):
        torch.default_generator.manual_seed(0)
        module = search(compile=compile)
        loader = torch.utils.data.DataLoader(data, batch_size=None)
        options = trainer.TrainerOptions(max_epochs=2, accelerator="cpu")
        trainer.train(
            trainer.make_trainer(options), options, module, loader, RunFolder(tmp_path / compile), "test", "again"
        )
        found.append(module.state_dict())
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        # float32, eight steps of two Adams
        torch.testing.assert_close(found[1][key], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_replay_the_soft_step():
    torch.manual_seed(0)
    supernet = nas.Supernet(SPACES["nasbench201"][0]()).cuda()
    twin = copy.deepcopy(supernet)
    supernet.compile(fullgraph=True, mode="reduce-overhead")
    for seed in range(5):
        generator = torch.Generator("cuda").manual_seed(seed)
        x = torch.randn(4, 3, 8, 8, device="cuda", generator=generator)
        sample = supernet.sample(GumbelSoftmax(), 1.0, generator=generator)
        torch.compiler.cudagraph_mark_step_begin()
        got, expected = results(supernet, x, sample), results(twin, x, sample)
        for key, value in expected.items():
            room = 1e-4 * max(1.0, float(value.double().abs().max()))  # float32; convolutions may use other algorithms
            torch.testing.assert_close(got[key], value, rtol=1e-2, atol=room, msg=key)
