import itertools

import pytest
import torch

from nas.relaxations import GumbelSinkhorn


@pytest.fixture(scope="module")
def sorting(load_file):
    return load_file("examples/sort_digits/sort_digits.py")


def test_what_fits_where_by_enumeration(sorting):
    """A permutation sorts a list exactly when every image stands where it fits; equal digits in any order."""
    for labels in ([3, 1, 2, 9], [5, 5, 0, 5], [7, 7, 7, 7]):
        batch = torch.tensor([labels])
        allowed = sorting.fits(batch)[0]
        for order in itertools.permutations(range(4)):
            matrix = torch.eye(4)[list(order)]  # element i at place order[i]
            placed = [labels[order.index(place)] for place in range(4)]
            assert bool(sorting.is_sorted(batch, matrix[None])) == (placed == sorted(labels))
            assert bool(sorting.is_sorted(batch, matrix[None])) == bool((matrix.bool() <= allowed).all())


def test_lists_hold_images_of_their_own_half_and_are_drawn_again(sorting):
    images, members, labels = sorting.lists(False, 20, 30, 1, 4)
    every, digits = sorting.digits(False)
    assert images.shape == (20, 1, 8, 8) and members.shape == (30, 5) and members.max() < 20
    assert all(len(set(row.tolist())) == 5 for row in members)
    for image, digit in zip(images[members[0]], labels[0], strict=True):
        assert any(torch.equal(image, other) and digit == its for other, its in zip(every, digits, strict=True))
    again = sorting.lists(False, 20, 30, 1, 4)
    assert all(torch.equal(a, b) for a, b in zip((images, members, labels), again, strict=True))
    assert not torch.equal(members, sorting.lists(False, 20, 30, 1, 5)[1])


def test_a_few_steps_learn_something(sorting):
    torch.set_num_threads(1)
    assert sorting.by_permutation(GumbelSinkhorn(), 40, 0) > 0.1  # a random order: about 1 in 80


def test_the_picture_is_drawn(sorting, tmp_path):
    torch.manual_seed(0)
    sorting.draw(sorting.Sorter(GumbelSinkhorn()).eval(), 0, str(tmp_path / "sort.png"))
    assert 5_000 < (tmp_path / "sort.png").stat().st_size < 60_000


@pytest.mark.slow
def test_five_digits_are_sorted(sorting):
    torch.set_num_threads(1)
    assert sorting.by_permutation(GumbelSinkhorn(), sorting.NUM_STEPS, 0) > 0.88  # 2,000 lists: 3 standard errors
