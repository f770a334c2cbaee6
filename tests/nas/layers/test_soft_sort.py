import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.layers import SoftSort, permute, place_scores
from nas.relaxations import GumbelSinkhorn, GumbelSoftmax


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


@given(
    st.integers(0, 6),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from([(), (3,), (2, 2)]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_eval_mode_sorts_as_torch_does(length, seed, dtype, batch, descending):
    """Also with equal keys: numbers of bfloat16 are often equal."""
    keys = draw(*batch, length, seed=seed).to(dtype)
    permutation = SoftSort().eval()(place_scores(keys, descending))
    expected = keys.sort(dim=-1, descending=descending).values
    torch.testing.assert_close(permute(permutation, keys), expected.to(permutation.dtype))
    assert permutation.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    one = torch.ones(*batch, length, dtype=permutation.dtype)
    assert torch.equal(permutation.sum(-1), one) and torch.equal(permutation.sum(-2), one)


def test_values_come_nearer_to_the_sorted_ones_as_tau_falls():
    keys = torch.stack([torch.randperm(6, generator=generator(i)).double() for i in range(20)])
    expected, sort = keys.sort(dim=-1).values, SoftSort(GumbelSinkhorn(500))
    errors = []
    for tau in (4.0, 1.0, 0.25, 0.06):
        sort.tau = tau
        errors.append(float((permute(sort(place_scores(keys)), keys) - expected).abs().max()))
    assert (
        errors == sorted(errors, reverse=True) and errors[0] > 0.5 and errors[-1] < 0.02
    )  # 5 * exp(-1 / (2 * tau)) = 1e-3, and what 500 iterations leave


def test_two_elements_by_the_logistic_function():
    """In closed form: half the difference of the keys, as of two by two matrices in general."""
    keys = torch.tensor([0.3, 1.5], dtype=torch.float64)
    found = SoftSort(GumbelSinkhorn(300), tau=0.8)(place_scores(keys))
    p = torch.sigmoid(torch.tensor(1.2 / 2 / 0.8, dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack([p, 1 - p, 1 - p, p]).view(2, 2))


def test_equal_keys_share_their_places():
    found = SoftSort(GumbelSinkhorn(2000), tau=0.02)(place_scores(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)))
    expected = torch.tensor([[0, 0.5, 0.5], [1, 0, 0], [0, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)  # 2,000 iterations leave 3e-4
    one = SoftSort()(place_scores(torch.tensor([5.0])))
    assert one.tolist() == [[1.0]]


def test_eval_mode_takes_the_best_of_all_permutations():
    scores = draw(4, 4, 4)
    every = torch.stack([torch.eye(4, dtype=torch.float64)[list(order)] for order in itertools.permutations(range(4))])
    best = (every * scores[:, None]).sum((-1, -2)).argmax(1)
    assert torch.equal(SoftSort().eval()(scores), every[best])


def test_gradients_by_finite_differences_reach_keys_and_values():
    sort = SoftSort(GumbelSinkhorn(5), tau=0.7)

    def placed(keys, values):
        return permute(sort(place_scores(keys)), values)

    assert torch.autograd.gradcheck(placed, (draw(2, 3).requires_grad_(), draw(2, 3, 2, 2, seed=1).requires_grad_()))


def test_inside_a_supernet_the_layer_draws_by_its_own_relaxation_at_the_supernets_tau():
    scores, relaxation = draw(5, 3, 3), GumbelSinkhorn(num_iterations=7)
    supernet = nas.Supernet(SoftSort(relaxation, tau=99.0))
    sample = supernet.sample(GumbelSoftmax(), 0.5, generator=generator())
    assert torch.equal(supernet(scores, op_weights=sample), relaxation(scores, 0.5, generator=generator()))


def test_a_forbidden_place_is_not_taken():
    scores = torch.zeros(3, 3)
    scores[0, :2] = -torch.inf
    scores[0, 2] = -5.0
    for mode in (True, False):
        found = SoftSort().train(mode)(scores)
        assert found[0].tolist() == pytest.approx([0.0, 0.0, 1.0])
    scores[0, 2] = -torch.inf
    with pytest.raises(ValueError, match="minus infinity forbid every permutation"):
        SoftSort().eval()(scores)


def test_permute_takes_features_and_refuses_other_lengths():
    permutation = torch.eye(3)[[1, 2, 0]].expand(2, 3, 3)  # element i to place (1, 2, 0)[i]
    values = torch.arange(24).view(2, 3, 2, 2)
    assert torch.equal(permute(permutation, values), values[:, [2, 0, 1]].float())
    with pytest.raises(ValueError, match=r"values must have shape \(2, 3, '...'\), got \(2, 4\)"):
        permute(permutation, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 3), r"scores must have shape \(..., n, n\), got \(2, 3\)"),
        (torch.zeros(3), r"got \(3,\)"),
        (torch.full((2, 2), torch.nan), "scores hold NaN or plus infinity"),
        (torch.tensor([[0.0, torch.inf], [0.0, 0.0]]), "scores hold NaN or plus infinity"),
        (place_scores(torch.full((9,), 3e38)), "scores hold NaN or plus infinity"),
    ],
)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_wrong_scores_get_one_line(scores, message, mode):
    with pytest.raises(ValueError, match=message):
        SoftSort().train(mode)(scores)


def test_tau_must_be_above_zero():
    with pytest.raises(ValueError, match="tau must be above 0"):
        SoftSort(tau=0.0)(torch.zeros(2, 2))
