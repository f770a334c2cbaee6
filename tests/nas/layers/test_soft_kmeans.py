import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import nn

import nas
from nas.layers import SoftKMeans
from nas.relaxations import GumbelSoftmax


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=generator(seed))


def layer(centers, **options):
    made = SoftKMeans(*centers.shape, **options).to(centers.dtype)
    made.centers.data.copy_(centers)
    return made


def test_two_centers_by_the_logistic_function():
    """For one feature and two centers, the log-odds are linear in the point."""
    x = draw(7, 1)
    found = layer(torch.tensor([[-1.0], [2.0]], dtype=torch.float64), beta=0.5, tau=0.7)(x)
    odds = torch.sigmoid(0.5 / 0.7 * ((x - 2) ** 2 - (x + 1) ** 2))[:, 0]
    torch.testing.assert_close(found.assignments[:, 0], 1 - torch.sigmoid(-odds.logit()))
    torch.testing.assert_close(found.reconstruction[:, 0], -found.assignments[:, 0] + 2 * found.assignments[:, 1])
    torch.testing.assert_close(found.distortion, (found.assignments * torch.cat([x + 1, x - 2], 1) ** 2).sum(1))


@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.sampled_from([(), (3,), (2, 3), (0,)]),
)
@settings(max_examples=40, deadline=None)
def test_cold_assignments_are_the_nearest_centers(num_clusters, num_features, seed, dtype, batch):
    points = draw(*batch, num_features, seed=seed).to(dtype)
    centers = draw(num_clusters, num_features, seed=seed + 1).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    found, hard = layer(centers, tau=1e-9)(points), layer(centers).eval()(points)
    distances = torch.cdist(points.double().view(-1, num_features), centers.double()).square()
    one_hot = nn.functional.one_hot(distances.argmin(1), num_clusters).view(*batch, num_clusters)
    assert torch.equal(hard.assignments.long(), one_hot)
    torch.testing.assert_close(found.assignments, hard.assignments, atol=1e-4, rtol=0)  # no two distances within 1e-8
    torch.testing.assert_close(hard.reconstruction, centers[one_hot.argmax(-1)].to(dtype))
    assert found.assignments.dtype == centers.dtype and found.reconstruction.dtype == dtype


def test_gradient_steps_at_low_tau_are_lloyds_algorithm():
    """From the same centers, steps of 1 / (2 * cluster size) end where scikit-learn ends, with its labels and inertia."""
    points = torch.cat([draw(60, 3, seed=i) + 2 * draw(1, 3, seed=10 + i) for i in range(4)])
    kmeans = SoftKMeans(4, 3, tau=1e-4).double()
    kmeans.initialize(points, generator(3))
    assert all((points == center).all(1).any() for center in kmeans.centers)
    expected = KMeans(4, init=kmeans.centers.detach().numpy(), n_init=1, algorithm="lloyd", tol=0).fit(points.numpy())
    for _ in range(50):
        found = kmeans(points)
        (gradient,) = torch.autograd.grad(found.distortion.sum(), kmeans.centers)
        with torch.no_grad():
            kmeans.centers -= gradient / (2 * found.assignments.sum(0)[:, None])
    found = kmeans.eval()(points)
    assert torch.equal(found.assignments.argmax(1), torch.from_numpy(expected.labels_).long())
    assert float(found.distortion.sum().detach()) == pytest.approx(expected.inertia_, rel=1e-6)
    torch.testing.assert_close(kmeans.centers.detach(), torch.from_numpy(expected.cluster_centers_))


def test_gradients_by_finite_differences_reach_points_and_centers():
    kmeans = SoftKMeans(3, 2, beta=0.8, tau=0.9).double()

    def outputs(points, centers):
        return torch.func.functional_call(kmeans, {"centers": centers}, (points,))

    inputs = draw(4, 2).requires_grad_(), draw(3, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(outputs, inputs)
    assert torch.autograd.gradgradcheck(outputs, inputs)


def test_inside_a_supernet_assignments_are_drawn_from_the_same_probabilities():
    kmeans = layer(draw(3, 2), beta=0.5)
    points = draw(1, 2, seed=5).expand(20_000, 2)
    supernet = nas.Supernet(copy.deepcopy(kmeans))
    sample = supernet.sample(GumbelSoftmax(hard=True), 0.3, generator=generator())
    found = supernet(points, op_weights=sample)
    assert set(found.assignments.unique().tolist()) == {0.0, 1.0}
    expected = kmeans(points[:1]).assignments[0]
    error = (expected * (1 - expected) / 20_000).sqrt()
    assert ((found.assignments.mean(0) - expected).abs() < 4 * error).all()  # standard errors
    again = supernet(points, op_weights=supernet.sample(GumbelSoftmax(hard=True), 0.3, generator=generator()))
    assert torch.equal(again.assignments, found.assignments)


def test_far_points_keep_the_differences_of_their_distances():
    """In float32, logits near -1e8 are multiples of 8; the nearest center has logit 0 instead."""
    supernet = nas.Supernet(layer(torch.tensor([[10_000.0], [-10_000.0]])))
    points = torch.zeros(20_000, 1)
    sample = supernet.sample(GumbelSoftmax(hard=True), 1.0, generator=generator())
    first = supernet(points, op_weights=sample).assignments[:, 0].mean()
    assert (
        abs(float(first.detach()) - 0.5) < 4 * 0.5 / 20_000**0.5
    )  # standard errors; equal sums would all take the first


def test_one_point_and_one_cluster_and_a_tie():
    kmeans = SoftKMeans(1, 2)
    kmeans.initialize(torch.tensor([[3.0, 4.0]]))
    found = kmeans(torch.tensor([[3.0, 4.0]]))
    assert found.assignments.tolist() == [[1.0]] and found.distortion.tolist() == [0.0]
    assert kmeans.centers.tolist() == [[3.0, 4.0]]
    tie = layer(torch.tensor([[1.0], [-1.0], [1.0]]))
    torch.testing.assert_close(tie(torch.zeros(1)).assignments, torch.full((3,), 1 / 3))
    assert tie.eval()(torch.zeros(1)).assignments.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: SoftKMeans(0, 2), "num_clusters must be at least 1, got 0"),
        (lambda: SoftKMeans(2, 0), "num_features must be at least 1, got 0"),
        (lambda: SoftKMeans(2, 2, beta=math.nan), "beta must be a finite number above 0, got nan"),
        (lambda: SoftKMeans(2, 2, tau=0.0)(torch.ones(1, 2)), "tau must be above 0"),
        (lambda: SoftKMeans(2, 2)(torch.ones(3, 4)), r"points must have shape \(..., 2\), got \(3, 4\)"),
        (lambda: SoftKMeans(2, 2)(torch.tensor([[math.nan, 0.0]])), "points or centers hold NaN"),
        (lambda: SoftKMeans(2, 2)(torch.full((1, 2), 1e30)), "squared distances overflow; scale the features"),
        (lambda: SoftKMeans(2, 2).initialize(torch.full((3, 2), math.inf)), "points hold NaN or infinity"),
        (
            lambda: SoftKMeans(3, 2).initialize(torch.eye(2).repeat(5, 1)),
            "3 clusters need as many distinct points, got 2",
        ),
        (lambda: SoftKMeans(1, 2).initialize(torch.ones(0, 2)), "1 clusters need as many distinct points, got 0"),
    ],
)
def test_wrong_input_gets_one_line(act, message):
    with pytest.raises(ValueError, match=message) as error:
        act()
    assert "\n" not in str(error.value)
