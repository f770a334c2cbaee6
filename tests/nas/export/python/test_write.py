"""Python files of networks: equal to the network, of good form, and with nothing in them but code."""

import ast
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch as th
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.models import efficientnet_b0, resnet18

import nas
from nas.export.python import network_source
from search_spaces.dilation import DilationNet1d
from search_spaces.macro import MacroNet
from search_spaces.nasbench201 import NASBench201

ROOT = Path(__file__).parents[4]


def assert_equal(network, copy, *shape, batches=(1, 2, 7)):
    for size in batches:
        x = torch.randn(size, *shape)
        with torch.no_grad():
            assert torch.equal(network(x), copy(x))


@pytest.mark.parametrize("seed", range(3))
def test_every_space_computes_the_same_bits(space, seed, drawn, rebuilt):
    space, shape = space
    _, network = drawn(space, seed)
    assert_equal(network, rebuilt(network_source(network, "about"), network), *shape)


@pytest.mark.slow
@pytest.mark.parametrize("make", [DilationNet1d, partial(NASBench201, 4, 1), partial(MacroNet, 4, (2, 3, 3))])
def test_200_random_genotypes(make, drawn, rebuilt):
    space = make()
    shape = (1, 64) if make is DilationNet1d else (3, 8, 8)
    seen = set()
    for seed in range(200):
        genotype, network = drawn(space, seed)
        seen.add(tuple(genotype.choices.values()))
        assert_equal(network, rebuilt(network_source(network, "about"), network), *shape, batches=(2,))
    assert len(seen) > 50


def test_train_mode_computes_the_same_too(drawn, rebuilt):
    _, network = drawn(NASBench201(4, 1), 0)
    copy = rebuilt(network_source(network, "about"), network).train()
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(network.train()(x), copy(x))
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), copy.buffers(), strict=True))  # running statistics


def test_form(space, drawn, tmp_path):
    """One file that ruff and mypy have nothing to say about, and that imports nothing but torch and the standard library."""
    space, _ = space
    _, network = drawn(space, 1)
    path = tmp_path / "network.py"
    path.write_text(network_source(network, "The network.\n\nIts history."))
    for words in (["format", "--check"], ["check", "--select", "E,F,I,UP,D1", "--ignore", "D102,D107,E501"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--isolated", path], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + path.read_text()
    tree = ast.parse(path.read_text())
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    packages = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0] for node in imports
    }
    assert "torch" in packages and packages <= {"__future__", "collections", "pathlib", "torch"}
    assert "search_spaces" not in path.read_text()


@pytest.mark.slow
def test_mypy(spaces, drawn, tmp_path):
    for i, space in enumerate(spaces):
        _, network = drawn(space, i)
        (tmp_path / f"network{i}.py").write_text(network_source(network, "about"))
    words = [sys.executable, "-m", "mypy", *sorted(tmp_path.glob("*.py"))]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("make", [resnet18, efficientnet_b0])
def test_torchvisions_networks(make, rebuilt):
    network = make(weights=None).eval()
    assert_equal(network, rebuilt(network_source(network, "about"), network), 3, 64, 64, batches=(2,))


GAIN = 1.5
BIAS_SIZE = 2


def _doubled(x: Tensor) -> Tensor:
    """Twice the input."""
    return x * 2 + _nothing(x)


def _nothing(x):
    return 0 * x


class Scale(nn.Module):
    """A scale, a shift that is no parameter, and steps by option."""

    offset: Any = 0.25
    absent: Any

    def __init__(self, size, *, act=None, steps=(), twice=False):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(size))
        self.frozen = nn.Parameter(torch.zeros(1, size), requires_grad=False)
        self.register_buffer("shift", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("fixed", torch.tensor([0.1, -1.0]), persistent=False)
        self.register_parameter("absent", None)
        self.act = act
        self.steps = steps
        self.twice = twice
        self.unread = object()  # nothing reads it, so nobody needs it

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale + self.shift.to(x.dtype) + self.frozen
        if self.twice:
            x = _doubled(x)
        elif self.act is None:
            x = x - GAIN
        else:
            x = self.act(x)
        for step in self.steps:
            x = x + step
        return self.shifted(x) if self.absent is None else x * self.absent

    def shifted(self, x):
        return self._clip(x + self.fixed.sum() + self.offset) * self.length

    @staticmethod
    def _clip(x):
        return x.clamp(-3, 3)

    @property
    def length(self) -> int:
        return len(self.steps) + 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
        self.again = self.a
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)])
        self.blocks[2] = self.blocks[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.b(self.a(x)))
        for block in self.blocks:
            x = block(x)
        return x


class Wide(nn.Linear):
    """A layer that extends one of torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu() + self.in_features


class Odd(nn.ModuleDict):
    def forward(self, x):
        for name in ("a-b", "class"):
            x = self[name](x)
        return x


class Optional(nn.Module):
    def __init__(self, first, second=None):
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.second is not None:
            x = self.second(x)
        return x


# fmt: off
class Layout(nn.Module):
    """Branches in every layout: "as people write them\""""

    def __init__(self, act=None, flag=True):
        super().__init__()
        self.act = act
        self.flag = flag

    def forward(self, x: Tensor, size: int=BIAS_SIZE) -> Tensor:
        if self.act is None: x = x + 1  # noqa: E701
        if self.flag:
            x = x * 2
        # what follows is another way
        elif self.act is not None:
            x = x * 3
        y = (x +
             size) if self.flag else x
        if not self.flag: return y  # noqa: E701
        else: return -(y if self.flag else x) * (1 if self.act is None else 2)  # noqa: E701
# fmt: on


def _noise(x, noise):
    return x + 0 * noise


def inner_size(x, size=2):
    return x.flatten(size - 1)


class Locals(nn.Module):
    """Local names like those of helpers; a static method whose argument has attributes like the module's; a state that changes."""

    def __init__(self):
        super().__init__()
        self.ndim = 2
        self.offset = None

    def forward(self, x: Tensor) -> Tensor:
        noise = x.mean()
        if self.offset is None:
            self.offset = noise
        x = _noise(x, noise) + self.offset
        return self.flat(inner_size(x.reshape(len(x), 2, 2)))

    @staticmethod
    def flat(x: Tensor) -> Tensor:
        if x.ndim == 3:
            return x.flatten(1)
        return x * x.ndim


class Backbone(nn.Module):
    width = 3

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Tanh()])
        self.scale = 0.5

    def features(self, x):
        return self.halved(self.layers[0](x))

    def halved(self, x):
        return x * self.scale

    def __iter__(self):
        return iter(self.layers)


class Head(nn.Module):
    """Uses of a child what the child's own forward does not."""

    def __init__(self):
        super().__init__()
        self.back = Backbone()

    def forward(self, x: Tensor) -> Tensor:
        x = self.back.features(x) * self.back.scale
        for layer in self.back:
            x = layer(x)
        return x


class TiedAndDecorated(nn.Module):
    def __init__(self):
        super().__init__()
        layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        self.rest = layers[1:]
        self.again = self.rest[1]

    @property
    def twice(self) -> int:
        return 2

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.rest(x)) * self.twice


class Formatted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * len(f"{th.pi:.3f} and {th.finfo(x.dtype).eps:.{BIAS_SIZE}e}")


class Shaped(nn.Module):
    shift: Tensor

    def __init__(self, *sizes):
        super().__init__()
        self.register_buffer("shift", torch.zeros(sizes))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift.sum()


def frozen():
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 4))
    network[1].requires_grad_(False)
    network[2].bias.requires_grad_(False)
    return network


class Root(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


CASES = {
    "options": nn.Sequential(
        Scale(4), Scale(4, act=F.gelu, steps=(1.0, 2.5)), Scale(4, act=torch.tanh), Scale(4, twice=True)
    ),
    "partial": Scale(4, act=partial(F.leaky_relu, negative_slope=0.2)),
    "a function of one's own": Scale(4, act=_nothing),
    "ties": Tied(),
    "subclasses of layers": nn.Sequential(Wide(4, 6), Wide(6, 4, bias=False)),
    "names that are no identifiers": Root(Odd({"a-b": nn.Linear(4, 4), "class": nn.Linear(4, 2)})),
    "a sequence with gaps": Root(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))[1:]),
    "more digits than a name has": nn.Sequential(*[nn.Linear(4, 4) for _ in range(12)]),
    "float64": Root(nn.Sequential(nn.Linear(4, 4).double(), nn.BatchNorm1d(4).double())),
    "modules that may be absent, in several shapes": nn.Sequential(
        Optional(nn.Linear(4, 4)),
        Optional(nn.Linear(4, 4), nn.Tanh()),
        Optional(nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
        Optional(nn.Identity(), nn.Linear(4, 4)),
        Optional(nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
    ),
    "branches in every layout": nn.Sequential(
        Layout(), Layout(torch.tanh), Layout(flag=False), Layout(torch.relu, False)
    ),
    "local names": Locals(),
    "methods of children": Head(),
    "ties and decorators": TiedAndDecorated(),
    "frozen parameters": frozen(),
    "names in f-strings": Formatted(),
    "buffers of several shapes": nn.Sequential(*[Shaped(*[2] * rank) for rank in range(5)]),
    "a norm without parameters in float64": Root(nn.BatchNorm1d(4, affine=False).double()),
    "nothing": nn.Identity(),
    "one layer": nn.Linear(4, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_modules_of_ones_own(name, rebuilt, run_source):
    network = CASES[name].eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.2, 1)
    source = network_source(network, "about")
    copy = rebuilt(source, network)
    x = torch.randn(3, 4, dtype=torch.float64 if "float64" in name else torch.float32)
    with torch.no_grad():
        assert torch.equal(network(x), copy(x)) and torch.equal(network(x + 1), copy(x + 1))
        assert torch.equal(network.train()(x), copy.train()(x))
    assert "Optional4" not in source  # classes that differ in structure alone are few
    for (key, a), (_, b) in zip(network.named_parameters(), copy.named_parameters(), strict=True):
        assert a.requires_grad == b.requires_grad and a.dtype == b.dtype, key
    assert len(list(network.modules())) == len(list(copy.modules()))  # what is one module there is one here


def test_branches_that_are_never_taken_are_not_written():
    source = network_source(Scale(4, steps=(1,)), "about")
    assert "_doubled" not in source and "doubled" not in source and "unread" not in source and "elif" not in source
    assert "GAIN" in source


def test_modules_that_differ_in_numbers_share_a_class():
    source = network_source(nn.Sequential(Root(nn.Linear(4, 8)), Root(nn.Linear(8, 4)), Root(nn.ReLU())), "about")
    classes = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    assert classes == ["Root", "Root2", "Network"]
    assert "Root(in_features=4, out_features=8)" in source


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda *_: None)
    return layer


def replaced():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


def inside():
    class Local(nn.Module):
        def forward(self, x):
            return x

    return Local()


class Calls(nn.Module):
    def __init__(self, item=None):
        super().__init__()
        self.item = item

    def forward(self, x):
        return self.item(x)


class Derived(Calls):
    def forward(self, x):
        return super().forward(x)


class Searching(nn.Module):
    def forward(self, x):
        return nas.sample(x)


def large():
    module = nn.Module()
    module.register_buffer("noise", torch.rand(5000), persistent=False)
    return module


class ByClass(nn.Module):
    @classmethod
    def scaled(cls, x):
        return x * cls.gain

    def forward(self, x):
        return self.scaled(x)


class Private(nn.Module):
    def forward(self, x):
        return x * self.__scale


class Decorated(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        return x


REFUSED = {
    "class methods": (ByClass, "is a class method"),
    "private names": (Private, "uses __scale"),
    "decorators": (Decorated, "is decorated"),
    "hooks": (hooked, "has hooks"),
    "a replaced forward": (replaced, "forward was replaced"),
    "a local class": (inside, "made inside a function"),
    "an object": (lambda: Calls(object()), "attribute 'item', which its forward reads, is object"),
    "a lambda": (lambda: Calls(lambda x: x), "lambda"),
    "super of one's own": (Derived, "calls super().forward"),
    "the framework": (Searching, "nas.sample, which works inside a supernet only"),
    "parametrisations": (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "remove_parametrizations"),
    "lazy layers": (lambda: nn.LazyLinear(4), "no shapes yet"),
    "large tensors outside the state dict": (large, "'noise' is not in the state dict"),
    "layers that cannot be read": (
        lambda: nn.Transformer(4, 2, 1, 1, 8, batch_first=True),
        "cannot be read from the layer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_is_refused_with_its_place(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=r"module 'body\.1' \(") as refusal:
        network_source(Root(nn.Sequential(nn.ReLU(), make())), "about")
    assert message in str(refusal.value)


def test_nothing_from_outside_becomes_code(run_source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = "x'); import os; os.system('touch pwned')#\"\"\"\nimport os\nos.system('touch pwned')\n\\"
    network = nn.Sequential(Scale(4, steps=(1.0,)), nn.Unflatten(1, (2, 2)))
    network[0].offset = evil
    source = network_source(Scale(4), evil)
    module = run_source(source)
    assert isinstance(module.Network(), nn.Module)
    kinds = {type(node) for node in ast.parse(source).body}
    assert ast.Import not in kinds or "import os" not in [ast.unparse(node) for node in ast.parse(source).body]
    named = nn.Sequential()
    named.add_module("a'); touch()#", nn.Linear(4, 4))
    assert list(run_source(network_source(named, "about")).Network().state_dict()) == list(named.state_dict())
    assert not (tmp_path / "pwned").exists()
