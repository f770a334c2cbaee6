"""Layers that hold values, with the means of torch around them: hooks, parametrizations, shared weights, compilation, sequences."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import nas
from nas.relaxations import GumbelSoftmax, Softmax


def conv():
    kernel, dilation = nas.value("kernel", (1, 3)), nas.value("dilation", (1, 2))
    return nn.Conv1d(4, 4, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)


def test_hooks_of_the_user_run_once_for_each_call():
    layer, calls = conv(), []
    layer.register_forward_pre_hook(lambda module, args: calls.append("before"))
    layer.register_forward_hook(lambda module, args, output: calls.append("after") or 2 * output)
    layer.register_full_backward_hook(lambda module, *grads: calls.append("backward"))
    supernet, x = nas.Supernet(layer), torch.randn(2, 4, 9, requires_grad=True)
    for op_weights in (supernet.sample(Softmax(), 1.0), supernet.path([1, 1])):
        supernet(x, op_weights=op_weights).sum().backward()
        assert calls == ["before", "after", "backward"]
        calls.clear()
    derived = supernet.derive({"kernel": "3", "dilation": "2"})
    assert torch.equal(derived(x), supernet(x, op_weights=supernet.path([1, 1])))
    assert calls == ["before", "after"] * 2


@pytest.mark.parametrize("parametrization", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_layers_keep_their_parametrization(parametrization):
    def build():
        return parametrization(nn.Conv1d(4, 4, 3, dilation=(d := nas.value("d", (1, 2))), padding=d))

    supernet, x = nas.Supernet(build()).eval(), torch.randn(2, 4, 9)
    for label in ("1", "2"):
        derived = supernet.derive({"d": label})
        with nas.architecture({"d": label}):
            fresh = build().eval()
        fresh.load_state_dict(derived.state_dict())
        assert torch.equal(derived(x), fresh(x))
        assert torch.equal(supernet(x, op_weights=supernet.one_hot({"d": label}, run_all=False)), fresh(x))


def test_layers_that_share_a_weight_still_do_once_derived():
    def build():
        kernel = nas.value("kernel", (1, 3))
        layers = [nn.Conv1d(4, 4, kernel, padding=kernel // 2) for _ in range(2)]
        layers[1].weight = layers[0].weight
        return nn.Sequential(*layers)

    supernet = nas.Supernet(build())
    for label in ("1", "3"):
        with nas.architecture({"kernel": label}):
            wanted = sum(p.numel() for p in build().parameters())
        derived = supernet.derive({"kernel": label})
        assert sum(p.numel() for p in derived.parameters()) == wanted
        assert derived[0].weight is not supernet.network[0].weight


def test_layers_that_share_a_weight_and_choose_different_kernels_do_not_share_it_once_derived():
    layers = [nn.Conv1d(4, 4, (k := nas.value(name, (1, 3))), padding=k // 2) for name in "ab"]
    layers[1].weight = layers[0].weight
    supernet, x = nas.Supernet(nn.Sequential(*layers)), torch.randn(2, 4, 9)
    choices = {"a": "3", "b": "1"}
    torch.testing.assert_close(supernet.derive(choices)(x), supernet(x, op_weights=supernet.one_hot(choices)))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True, but self.use_nested_tensor is False")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("training", [True, False])
def test_an_encoder_of_torch_runs_with_any_number_of_heads(training):
    def build():
        layer = nn.TransformerEncoderLayer(8, nas.value("heads", (1, 2, 4)), 16, 0.0, batch_first=True)
        return nn.TransformerEncoder(layer, 2)

    supernet, x = nas.Supernet(build()).train(training), torch.randn(2, 5, 8)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():  # in eval mode torch then has a fast path, which compares attributes
        for heads in ("1", "2", "4"):
            with nas.architecture({"heads": heads}):
                fresh = build().train(training)
            derived = supernet.derive({"heads": heads})
            assert derived.layers[1].self_attn.head_dim == fresh.layers[1].self_attn.head_dim
            fresh.load_state_dict(derived.state_dict())
            got = supernet(x, src_key_padding_mask=mask, op_weights=supernet.one_hot({"heads": heads}))
            wanted = fresh(x, src_key_padding_mask=mask)
            # float32, and another kernel; the fast path gives no outputs for padding
            torch.testing.assert_close(got[~mask], wanted[~mask], rtol=1e-5, atol=1e-5)


def test_the_dropout_of_a_recurrent_layer_is_set_as_an_attribute():
    layer = nn.LSTM(4, 4, 2, batch_first=True)
    layer.dropout = nas.value("rate", (0.0, 0.5))
    supernet, x = nas.Supernet(layer), torch.randn(3, 5, 4)
    plain = supernet.derive({"rate": "0.0"})
    assert plain.dropout == 0.0 and torch.equal(plain(x)[0], supernet(x, op_weights=supernet.path([0]))[0])
    assert not torch.equal(plain(x)[0], supernet(x, op_weights=supernet.path([1]))[0])


class Attention(nn.Module):
    """Attention of a batch of sequences to themselves."""

    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.attention = nn.MultiheadAttention(4, nas.value("heads", (1, 2, 4)), batch_first=batch_first)

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        y, _ = self.attention(x, x, x)
        return y if self.batch_first else y.transpose(0, 1)


def test_noise_per_sample_of_sequences_needs_the_batch_first():
    supernet, x = nas.Supernet(Attention(True)).double(), torch.randn(5, 5, 4, dtype=torch.float64)
    sample = supernet.sample(GumbelSoftmax(), 1.0, num_samples=5)
    each = [supernet(x[i : i + 1], op_weights=nas.OpWeights(sample.weights[:, i], None)) for i in range(5)]
    torch.testing.assert_close(supernet(x, op_weights=sample), torch.cat(each), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="needs outputs with the batch in the first dimension"):
        nas.Supernet(Attention(False))(x.float(), op_weights=sample)


def test_compiled_layers_compute_the_same():
    supernet = nas.Supernet(nn.Sequential(conv(), nn.AvgPool1d((k := nas.value("pool", (1, 3))), 1, k // 2))).double()
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(supernet, backend="eager", fullgraph=True)
    for _ in range(2):
        sample = nas.OpWeights(supernet.sample(GumbelSoftmax(), 1.0).weights.detach(), None)
        got, wanted = compiled(x, op_weights=sample), supernet(x, op_weights=sample)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


class Doubled(nn.Conv1d):
    """A convolution with a forward of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_the_forward_of_a_subclass_runs():
    supernet = nas.Supernet(Doubled(4, 4, (k := nas.value("kernel", (1, 3))), padding=k // 2)).double()
    x, weights = torch.randn(2, 4, 9, dtype=torch.float64), torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    each = [supernet.derive({"kernel": label}) for label in ("1", "3")]
    wanted = [2 * nn.functional.conv1d(x, conv.weight, conv.bias, padding="same") for conv in each]
    got = supernet(x, op_weights=nas.OpWeights(weights, None))
    torch.testing.assert_close(got, 0.3 * wanted[0] + 0.7 * wanted[1], rtol=1e-12, atol=1e-12)


def test_a_replaced_forward_is_refused():
    layer = conv()
    layer.forward = lambda x: x
    with pytest.raises(ValueError, match="Conv1d cannot hold a value, because its forward was replaced"):
        nas.Supernet(layer)
