"""What is found once about a mixture is found anew when modules change: always the numbers of the plain sum."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.fusion import fuse_conv_bn_eval

import nas
from nas.relaxations import GumbelSoftmax, SampledPath
from nas.supernet.base import present_context
from nas.supernet.fused import mixture


def network():
    torch.manual_seed(0)

    def conv(dilation):
        return nn.Conv2d(2, 2, 3, padding=dilation, dilation=dilation)

    return nas.choice(
        "op",
        {
            "one": conv(1),
            "two": conv(2),
            "norm": nn.Sequential(nn.ReLU(), conv(1), nn.BatchNorm2d(2)),
            "pool": nn.AvgPool2d(3, 1, 1),
            "act": nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(2, 2, 1))),
        },
    )


def exchange_a_candidate(op):
    op.candidates[1] = nn.Conv2d(2, 2, 1)


def exchange_a_layer(op):
    op.candidates[2][1] = nn.Conv2d(2, 2, 1)


def exchange_an_inner_layer(op):
    op.candidates[4][1][0] = nn.Conv2d(2, 2, 3, padding=1)


def append_a_layer(op):
    op.candidates[4].append(nn.Tanh())


def change_a_dilation(op):
    op.candidates[1].dilation, op.candidates[1].padding = (1, 1), (1, 1)


def change_a_stride_setting(op):
    op.candidates[3].count_include_pad = False


def work_in_place(op):
    op.candidates[4][0] = nn.SiLU()


def parametrize(op):
    parametrizations.weight_norm(op.candidates[0])
    op.candidates[0].parametrizations.weight.original0.data.mul_(2)


def exchange_a_parameter(op):
    op.candidates[0].weight = nn.Parameter(torch.randn(2, 2, 3, 3))


def override_a_forward(op):
    layer = op.candidates[0]
    layer.forward = lambda x: 3 * type(layer).forward(layer, x)


def hook(op):
    op.candidates[0].register_forward_hook(lambda module, args, output: output * 2)


def hook_the_sequential(op):
    op.candidates[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def evaluate(op):
    op.eval()


def freeze_a_norm(op):
    op.candidates[2][2].eval()


def fuse(op):
    op.eval()
    op.candidates[2] = nn.Sequential(nn.ReLU(), fuse_conv_bn_eval(op.candidates[2][1], op.candidates[2][2]))


CHANGES = [
    *(exchange_a_candidate, exchange_a_layer, exchange_an_inner_layer, append_a_layer, change_a_dilation),
    *(change_a_stride_setting, work_in_place, parametrize, exchange_a_parameter, override_a_forward, hook),
    *(hook_the_sequential, evaluate, freeze_a_norm, fuse),
]


@pytest.mark.parametrize("relaxation", [GumbelSoftmax(), SampledPath()], ids=["soft", "sampled"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_forwards_gives_the_numbers_of_the_plain_sum(change, relaxation):
    torch.manual_seed(1)
    supernet, plain = nas.Supernet(network()), nas.Supernet(network(), fold_weights=False)
    x = torch.randn(3, 2, 6, 6)
    outputs = []
    for net in (supernet, plain):
        with torch.no_grad():
            net.alpha[0, 0] = 5.0  # paths run what is changed
        for seed in range(8):
            net(x, op_weights=net.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(seed)))
        torch.manual_seed(2)
        change(net.network)
        outputs.append(
            [
                net(x, op_weights=net.sample(relaxation, 1.0, generator=torch.Generator().manual_seed(seed)))
                for seed in range(8)
            ]
        )
    for fast, slow in zip(*outputs, strict=True):
        torch.testing.assert_close(fast, slow)  # float32 in another order of additions


def test_a_removed_hook_is_forgotten():
    supernet = nas.Supernet(network())
    x = torch.randn(3, 2, 6, 6)
    sample = supernet.sample(GumbelSoftmax(), 1.0)
    supernet.eval()
    before = supernet(x, op_weights=sample)
    handle = supernet.network.candidates[0].register_forward_hook(lambda module, args, output: output * 2)
    assert not torch.allclose(supernet(x, op_weights=sample), before)
    handle.remove()
    assert torch.equal(supernet(x, op_weights=sample), before)


def test_a_plan_is_kept_while_nothing_changes(monkeypatch):
    made = []
    plan = mixture.Plan.__init__

    def counted(self, choices):
        made.append(1)
        plan(self, choices)

    monkeypatch.setattr(mixture.Plan, "__init__", counted)
    supernet = nas.Supernet(network())
    x = torch.randn(3, 2, 6, 6)
    for _ in range(3):
        supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 1.0))
        supernet(x, op_weights=supernet.sample(SampledPath(), 1.0))
    supernet.load_state_dict(nas.Supernet(network()).state_dict())
    supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 1.0))
    assert made == [1]


def test_a_copy_has_a_plan_of_its_own_modules():
    supernet = nas.Supernet(network()).eval()
    x = torch.randn(3, 2, 6, 6)
    sample = supernet.sample(GumbelSoftmax(), 1.0)
    expected = supernet(x, op_weights=sample)
    other = copy.deepcopy(supernet)
    with torch.no_grad():
        for parameter in supernet.weight_parameters():
            parameter.zero_()
    assert torch.equal(other(x, op_weights=sample), expected)


def test_shared_results_die_with_their_input():
    """Also without gradients: a chain of choices keeps the results of one input, not of all."""
    kept = []

    def note(module, args, output):
        kept.append(len(present_context().fused._shared))

    torch.manual_seed(0)
    supernet = nas.Supernet(
        nn.Sequential(
            *[
                nas.choice(
                    f"op{i}",
                    {
                        "a": nn.Sequential(nn.ReLU(), nn.Linear(4, 4)),
                        "b": nn.Sequential(nn.ReLU(), nn.Linear(4, 4)),
                    },
                )
                for i in range(10)
            ]
        )
    )
    for module in supernet.network:
        module.register_forward_hook(note)
    with torch.no_grad():
        supernet(torch.randn(2, 4), op_weights=supernet.sample(GumbelSoftmax(), 1.0))
    assert len(kept) == 10 and max(kept) <= 2
