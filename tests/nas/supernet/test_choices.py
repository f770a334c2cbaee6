import threading
from functools import partial

import pytest
import torch
from torch import nn

import nas


def pair(name="c", **kwargs):
    return nas.choice(name, {"relu": nn.ReLU, "tanh": nn.Tanh}, **kwargs)


@pytest.mark.parametrize(
    ("name", "candidates", "message"),
    [
        ("c", {}, "has 0 candidate"),
        ("c", {"a": nn.ReLU}, "has 1 candidate"),
        ("c", {"a b": nn.ReLU, "c": nn.ReLU}, "label 'a b' must match"),
        ("c", {"": nn.ReLU, "c": nn.ReLU}, "label '' must match"),
        ("c", {"x" * 65: nn.ReLU, "c": nn.ReLU}, "must match"),
        ("c", {3: nn.ReLU, "c": nn.ReLU}, "label 3 must match"),
        ("c/d", {"a": nn.ReLU, "c": nn.ReLU}, "choice name 'c/d' must match"),
        ("c", [nn.ReLU, nn.Tanh], "must map labels to modules"),
        ("c", {"a": nn.ReLU, "b": 3}, "'b' must be an nn.Module or a factory of one, got int"),
        ("c", {"a": nn.ReLU, "b": lambda: 3}, "'b' must be an nn.Module or a factory of one, got int"),
    ],
)
def test_bad_choices_are_refused(name, candidates, message):
    with pytest.raises(ValueError, match=message):
        nas.choice(name, candidates)


def test_labels_that_module_dict_refuses_are_taken():
    mixed = nas.choice("c", {"3.3": nn.ReLU, "type": nn.Tanh, "+-_": nn.Identity})
    assert mixed.labels == ("3.3", "type", "+-_")


def test_scopes_nest_and_end():
    with nas.scope("stage1"):
        with nas.scope("block2"):
            inner = pair()
        outer = pair()
    assert (inner.name, outer.name, pair().name) == ("stage1.block2.c", "stage1.c", "c")


def test_scope_ends_after_an_error():
    with pytest.raises(KeyError), nas.scope("stage1"):
        raise KeyError
    assert pair().name == "c"


def test_only_chosen_factories_are_called():
    built = []

    def make(label):
        built.append(label)
        return nn.Identity()

    with nas.architecture({"c": "b"}):
        nas.choice("c", {label: partial(make, label) for label in "abc"})
    assert built == ["b"]


def eager():
    """Candidates built before the choice that holds them."""
    return nas.choice("outer", {"deep": nn.Sequential(pair("inner")), "flat": nn.Identity()})


def test_choices_inside_ready_made_candidates_are_inactive_when_not_chosen():
    with nas.architecture({"outer": "flat"}):
        assert isinstance(eager(), nn.Identity)
    with nas.architecture({"outer": "deep", "inner": "tanh"}):
        assert isinstance(eager()[0], nn.Tanh)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"outer": "flat", "inner": "relu"}, "unknown or inactive choice 'inner'"),
        ({"outer": "deep"}, "no label for choice 'inner'"),
        ({"inner": "relu"}, "no label for choice 'outer'"),
        ({"outer": "none"}, "'outer' has no candidate 'none'; it has deep, flat"),
        ({"outer": "flat", "more": "x"}, "unknown or inactive choice 'more'"),
        ({"outer": ["flat"]}, "'outer' has no candidate"),
    ],
)
def test_genotypes_that_do_not_fit_the_build(choices, message):
    with pytest.raises(ValueError, match=message), nas.architecture(choices):
        eager()


def test_a_missing_label_is_said_even_when_the_build_stumbles_over_it():
    with pytest.raises(ValueError, match="no label for choice 'c'"), nas.architecture({}):
        nas.choice("c", {"a": partial(nn.Linear, 2, 2), "b": partial(nn.Linear, 2, 2)}).weight.zero_()


def test_a_name_used_twice_is_refused_in_a_build_too():
    with pytest.raises(ValueError, match="used twice"), nas.architecture({"c": "relu"}):
        nn.Sequential(pair(), pair())
    with nas.architecture({"c": "relu"}):
        nn.Sequential(pair(shared=True), pair(shared=True))


def test_the_build_ends_with_its_block_and_is_not_seen_by_other_threads():
    seen = []
    with nas.architecture({"c": "relu"}):
        pair()
        thread = threading.Thread(target=lambda: seen.append(pair()))
        thread.start()
        thread.join()
    assert isinstance(seen[0], nas.MixedOp) and isinstance(pair(), nas.MixedOp)


def model():
    return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 2)))


def test_replace_puts_choices_into_a_model_and_keeps_its_weights():
    net = model()
    before = net[1][1].weight
    result = nas.replace(
        net, {"1.1": {"old": net[1][1], "new": partial(nn.Linear, 3, 2)}, "1.0": {"r": nn.ReLU, "t": nn.Tanh}}
    )
    assert result is net
    supernet = nas.Supernet(net)
    assert supernet.choices == {"1.0": ("r", "t"), "1.1": ("old", "new")}
    derived = supernet.derive({"1.0": "t", "1.1": "old"})
    assert torch.equal(derived[1][1].weight, before) and isinstance(derived[1][0], nn.Tanh)


def test_replace_changes_nothing_when_a_path_is_wrong():
    net = model()
    with pytest.raises(ValueError, match=r"no submodule '1\.7'"):
        nas.replace(net, {"1.0": {"r": nn.ReLU, "t": nn.Tanh}, "1.7": {"r": nn.ReLU, "t": nn.Tanh}})
    assert isinstance(net[1][0], nn.ReLU)


def test_replace_refuses_a_place_inside_another():
    net = nn.Sequential(nn.Sequential(nn.ReLU()))
    candidates = {"r": nn.ReLU, "t": nn.Tanh}
    with pytest.raises(ValueError, match=r"'0\.0' lies inside '0'"):
        nas.replace(net, {"0": candidates, "0.0": candidates})
    assert isinstance(net[0][0], nn.ReLU)


def test_replace_finds_every_name_of_a_module_used_twice():
    shared = nn.ReLU()
    net = nn.Sequential(shared, shared)
    nas.replace(net, {"1": {"r": nn.ReLU, "t": nn.Tanh}})
    assert net[0] is shared and isinstance(net[1], nas.MixedOp)
