"""The choice of k inputs for a sum, and labels that exist only while searching."""

import itertools

import pytest
import torch
from torch import nn

import nas
from nas.relaxations import Dirichlet, GumbelSoftmax, SampledPath, TwoPath


class Node(nn.Module):
    def __init__(self, learned=False, k=2):
        super().__init__()

        def edge(j):
            ops = {"none": nas.supernet.candidates.Zero, "a": lambda: nn.Linear(3, 3), "b": nn.Tanh}
            return nas.choice(f"from{j}", ops, search_only=("none",))

        self.edges = nas.inputs("node", {f"from{j}": (lambda j=j: edge(j)) for j in range(3)}, k, learned=learned)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.edges([x, x + 1, x * 2]))


def everything():
    for pair in itertools.combinations(("from0", "from1", "from2"), 2):
        for ops in itertools.product("ab", repeat=2):
            yield {"node": list(pair), **dict(zip(pair, ops, strict=True))}


def test_number_of_architectures():
    assert nas.Supernet(Node()).num_architectures == len(list(everything())) == 12


@pytest.mark.parametrize("choices", list(everything()), ids=str)
def test_one_hot_derived_and_fresh_agree(choices):
    supernet = nas.Supernet(Node())
    x = torch.randn(4, 3)
    derived = supernet.derive(choices)
    for run_all in (True, False):
        assert torch.equal(supernet(x, op_weights=supernet.one_hot(choices, run_all=run_all)), derived(x))
    with nas.architecture(choices):
        fresh = Node()
    assert derived.state_dict().keys() == fresh.state_dict().keys()
    assert len(fresh.edges.branches) == 2


def test_inputs_that_are_not_learned_are_summed_and_rest():
    supernet = nas.Supernet(Node()).double()
    sample = supernet.sample(GumbelSoftmax(), 1.0, generator=torch.Generator().manual_seed(0))
    row = list(supernet.choices).index("node")
    assert sample.weights[row].tolist() == [1, 1, 1]
    supernet(torch.randn(4, 3, dtype=torch.float64), op_weights=sample).sum().backward()
    assert supernet.alpha.grad[row].tolist() == [0, 0, 0]
    assert supernet.alpha.grad.abs().sum() > 0
    assert supernet.frozen == {"node"}


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(hard=True), SampledPath(), TwoPath(), Dirichlet()])
@pytest.mark.parametrize("num_samples", [None, 4])
def test_learned_inputs_weigh_k_times_the_softmax_whatever_is_drawn(relaxation, num_samples):
    if num_samples and relaxation.num_active:
        pytest.skip("no noise per sample where only sampled candidates run")
    supernet = nas.Supernet(Node(learned=True))
    row = list(supernet.choices).index("node")
    with torch.no_grad():
        supernet.alpha[row] = torch.tensor([1.0, 0.0, -1.0])
    sample = supernet.sample(relaxation, 0.5, num_samples=num_samples)
    expected = 2 * torch.softmax(supernet.alpha[row], 0)
    torch.testing.assert_close(sample.weights[row], expected.expand_as(sample.weights[row]))
    supernet(torch.randn(4, 3), op_weights=sample).sum().backward()
    assert supernet.alpha.grad[row].abs().sum() > 0


def test_discretize_takes_the_inputs_with_the_best_operation():
    """DARTS' rule: an edge is worth its best operation other than none, and none never wins."""
    supernet = nas.Supernet(Node())
    rows = list(supernet.choices)
    with torch.no_grad():
        for name, logits in {"from0": [9.0, 1, 0], "from1": [0, 0, 3.0], "from2": [0, 2.0, 0]}.items():
            supernet.alpha[rows.index(name)] = torch.tensor(logits)
    assert supernet.discretize().choices == {"node": ["from1", "from2"], "from1": "b", "from2": "a"}


def test_discretize_takes_the_most_probable_inputs_where_they_are_learned():
    supernet = nas.Supernet(Node(learned=True))
    with torch.no_grad():
        supernet.alpha[list(supernet.choices).index("node")] = torch.tensor([2.0, 0.0, 1.0])
    assert supernet.discretize().choices == {"node": ["from0", "from2"], "from0": "a", "from2": "a"}


def test_as_many_inputs_as_are_chosen_leave_no_choice():
    summed = nas.inputs("node", {"a": nn.Identity, "b": nn.Tanh}, 2)
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(summed([x, y]), x + y.tanh())
    assert not nas.Supernet(summed).choices


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"node": ["from0"], "from0": "a"}, "needs a sorted list of 2"),
        ({"node": ["from1", "from0"], "from0": "a", "from1": "a"}, "needs a sorted list of 2"),
        ({"node": ["from0", "from9"], "from0": "a"}, "has no candidate 'from9'"),
        ({"node": "from0", "from0": "a"}, "needs a sorted list of 2"),
        ({"node": ["from0", "from1"], "from0": "none", "from1": "a"}, "'from0': 'none' exists only while searching"),
        ({"node": ["from0", "from1"], "from0": "a", "from1": "a", "from2": "b"}, "'from2' is inactive"),
    ],
)
def test_genotypes_that_do_not_fit(choices, message):
    supernet = nas.Supernet(Node())
    with pytest.raises(ValueError, match=message):
        supernet.derive(choices)
    with pytest.raises(ValueError, match=r"genotype: "), nas.architecture(choices):
        Node()


def test_bad_use():
    two = {"a": nn.Identity, "b": nn.Identity}
    with pytest.raises(ValueError, match=r"k must lie in 2 \.\.\. 1"):
        nas.inputs("node", two, 1)
    with pytest.raises(ValueError, match="search_only names 'c', which is not a candidate"):
        nas.choice("x", two, search_only=("c",))
    with pytest.raises(ValueError, match="none could be derived"):
        nas.choice("x", two, search_only=("a", "b"))
    supernet = nas.Supernet(Node().edges)
    with pytest.raises(ValueError, match="2 inputs for 3 labels"):
        supernet([torch.ones(2, 3)] * 2, op_weights=supernet.sample(GumbelSoftmax(), 1.0))


def test_shared_places_must_agree_in_k():
    def place(k):
        return nas.inputs("node", {c: nn.Identity for c in "abcd"}, k, shared=True)

    with pytest.raises(ValueError, match=r"shared choice 'node' differs between '0' and '1' in k"):
        nas.Supernet(nn.Sequential(place(2), place(3)))


def test_rows_that_are_not_drawn_are_left_alone_by_relaxations_that_rescale():
    """TwoPath puts logits that it did not draw back; an input choice's logits were all trained."""
    supernet = nas.Supernet(Node(learned=True))
    relaxation = TwoPath()
    sample = supernet.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(0))
    row = list(supernet.choices).index("node")
    with torch.no_grad():
        supernet.alpha[row] += torch.tensor([0.1, 0.2, 0.3])
    supernet.after_arch_step(relaxation, sample)
    torch.testing.assert_close(supernet.alpha[row], torch.tensor([0.1, 0.2, 0.3]))
