import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score


@pytest.fixture(scope="module")
def clustering(load_file):
    return load_file("examples/soft_kmeans/soft_kmeans.py")


def test_few_steps_come_near_to_kmeans(clustering):
    torch.set_num_threads(1)
    points, labels = clustering.digits_of_both_sets()
    best = KMeans(10, n_init=10, random_state=0).fit(points.numpy())
    clusters, inertia = clustering.clusters_of(clustering.clustered(points, 0, 400), points)
    assert 0.999 < inertia / best.inertia_ < 1.03  # a quarter of the steps: it may end beside the best optimum
    assert adjusted_rand_score(labels, clusters) > 0.5


def test_a_few_steps_move_encoder_and_centers_and_are_drawn(clustering, tmp_path):
    torch.set_num_threads(1)
    points, _ = clustering.digits_of_both_sets()
    network = clustering.encoded(points, 0, 20)
    clusters, inertia = clustering.clusters_of(network, points)
    assert set(clusters.tolist()) == set(range(10)) and inertia > 0
    clustering.draw({"a": network, "b": network}, points, str(tmp_path / "clusters.png"))
    assert 5_000 < (tmp_path / "clusters.png").stat().st_size < 60_000


def test_warping_keeps_images_apart_and_draws_again(clustering):
    images = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
    one, two = (clustering.warped(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == images.shape and not torch.equal(one, images)
    alone = clustering.warped(images, torch.Generator().manual_seed(1))[2]
    changed = images.clone()
    changed[3] = 0
    assert torch.equal(clustering.warped(changed, torch.Generator().manual_seed(1))[2], alone)


def test_contrast_is_least_where_copies_agree(clustering):
    codes = torch.eye(6)
    assert clustering.contrast(codes, codes) < clustering.contrast(codes, codes.roll(1, 0))
    same = torch.ones(6, 6) / 6**0.5
    torch.testing.assert_close(clustering.contrast(same, same), torch.tensor(6.0).log())


@pytest.mark.slow
def test_digits_cluster_as_well_as_by_kmeans_and_better_encoded(clustering):
    torch.set_num_threads(1)
    best, relaxed, encoded = clustering.compare(5, 1500)
    assert relaxed.inertia < 1.01 and relaxed.agreement > best.agreement - 0.02  # a few points at the borders
    assert encoded.agreement > best.agreement + 0.1
