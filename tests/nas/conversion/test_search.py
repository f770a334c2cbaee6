"""Searches of converted networks: limits, derived networks, exports, resumed runs."""

import pytest
import torch
from convertible import made
from torch.utils._pytree import tree_leaves

import nas
from nas.costs.functions import count_macs
from nas.relaxations import SampledPath


def searched(name, *, share, state=None, steps=6, stop=None, **options):
    """A search of a few steps in float32 within a share of the parent's MACs."""
    model, args, _ = made(name)  # called by position, so that the transformer has its default scale
    model = model.float()
    args = tuple(x.float() if x.is_floating_point() else x for x in args)
    network = nas.convert(model, args, multiple=1, verbose=False)
    limit = share * count_macs(model, tuple(x[:1] for x in args))
    search = nas.Searcher(network, num_steps=steps, limits={"macs": limit}, seed=1, **options)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    if state is not None:
        search.load_state_dict(state["search"])
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    loss_of = lambda: sum(leaf.square().mean() for leaf in tree_leaves(network(*args)))  # noqa: E731
    for step in range(steps if stop is None else stop):
        if state is not None and step < state["step"]:
            continue
        search.arch_step(loss_of)
        with search.sampled():
            optimizer.zero_grad()
            loss_of().backward()
        optimizer.step()
    kept = {
        "search": search.state_dict(),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": stop,
    }
    return search, args, limit, kept


@pytest.mark.parametrize(
    ("name", "options"), [("residual", {}), ("transformer", {}), ("blocks", {"relaxation": SampledPath()})]
)
def test_a_search_keeps_the_limit_and_its_network_needs_nothing_of_ours(name, options, tmp_path):
    search, args, limit, _ = searched(name, share=0.5, **options)
    small = search.derive().eval()
    assert count_macs(small, tuple(x[:1] for x in args)) <= limit
    torch.export.save(torch.export.export(small, args, strict=False), tmp_path / "small.pt2")
    loaded = torch.export.load(tmp_path / "small.pt2").module()
    for a, b in zip(tree_leaves(loaded(*args)), tree_leaves(small(*args)), strict=True):
        assert torch.equal(a, b)


def test_a_limit_below_the_smallest_architecture_names_it():
    with pytest.raises(ValueError, match="macs"):
        searched("residual", share=1e-4)


def test_a_stopped_search_goes_on_bit_for_bit():
    whole, *_ = searched("transformer", share=0.5)
    _, _, _, state = searched("transformer", share=0.5, stop=3)
    again, *_ = searched("transformer", share=0.5, state=state)
    for a, b in zip(whole.supernet.state_dict().values(), again.supernet.state_dict().values(), strict=True):
        assert torch.equal(a, b)
