import pytest
import torch

from nas.relaxations import GumbelSoftmax


@pytest.fixture(scope="module")
def experts(load_file):
    return load_file("examples/routed_experts/routed_experts.py")


def test_versions_are_turned_and_inverted(experts):
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 1, 6] = 0.75
    upright, turned, inverted, both = experts.versions(image)[:, 0].view(4, 8, 8)
    assert upright[1, 6] == turned[1, 1] == 0.75 and upright.count_nonzero() == turned.count_nonzero() == 1
    assert torch.equal(upright + inverted, torch.ones(8, 8)) and torch.equal(turned + both, torch.ones(8, 8))


def test_held_out_images_are_not_shown_in_any_version(experts):
    for is_validation, sizes in ((True, (900, 300)), (False, (1200, 597))):
        shown, held_out = experts.data_of(is_validation)
        assert tuple(len(part.labels) for part in (shown, held_out)) == sizes
        distances = torch.cdist(held_out.images.flatten(0, 1), shown.images.flatten(0, 1))
        assert float(distances.min()) > 0.1


def test_a_routed_network_needs_a_quarter_of_the_operations(experts):
    torch.manual_seed(0)
    _, held_out = experts.data_of(True)
    routed, dense = (experts.row_of("", experts.mixture(k).eval(), held_out) for k in (1, 4))
    expert = 64 * 16 + 16 * 10
    assert routed.macs == expert and dense.macs == 4 * expert and routed.params == dense.params
    torch.testing.assert_close(routed.shares.sum(1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(dense.shares, torch.ones(4, 4, dtype=torch.float64))
    assert experts.row_of("", experts.perceptron(16), held_out).macs == expert


def test_purity_and_table(experts):
    assert experts.purity(torch.eye(4)) == 1 and experts.purity(torch.ones(4, 4)) == 0.25
    shares = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 4)
    rows = [experts.Row("a", 0.9, 1184, 10, shares), experts.Row("a", 1.0, 1184, 10, shares)]
    lines = experts.table([*rows, experts.Row("b", 0.5, 592.0, 7)]).splitlines()
    assert lines[2] == "| a | 0.950 ± 0.071 | 1,184 | 10 | 0.25 ± 0.00 | 6 |"
    assert lines[3] == "| b | 0.500 ± 0.000 | 592 | 7 | - | - |"


def test_a_few_steps_repeat_exactly_and_learn(experts):
    shown, held_out = experts.data_of(True)
    one, two = (experts.trained_mixture(experts.Method(1, GumbelSoftmax(), 1.0), shown, 150, 3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert experts.row_of("", one, held_out).accuracy > 0.3  # 0.1 by chance
    assert experts.picture(experts.row_of("", one, held_out).shares).axes


@pytest.mark.slow
def test_routing_is_as_good_as_running_all_experts(experts):
    torch.set_num_threads(1)
    routed, dense, one, _ = experts.compare(5, 2000)
    assert routed.accuracy > dense.accuracy - 0.02 and routed.accuracy > one.accuracy + 0.02
    assert routed.macs <= 1.1 * dense.macs / 4
    assert (routed.shares.sum(0) > 0).all()
