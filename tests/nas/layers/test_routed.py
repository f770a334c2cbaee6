import copy
import itertools
import math
from contextlib import contextmanager

import pytest
import torch
from scipy.stats import chisquare
from torch import nn

import nas
from nas.evaluation import observed
from nas.layers import Routed, balance_losses, routed
from nas.layers.routed import imbalance
from nas.relaxations import GumbelSoftmax
from nas.tasks import Classification

DOUBLE = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def layer(num=4, k=2, dtype=DOUBLE, **kwargs):
    torch.manual_seed(0)
    experts = [nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(num)]
    return Routed(experts, nn.Linear(3, num), k=k, **kwargs).to(dtype)


def inputs(*shape, dtype=DOUBLE):
    return torch.randn(*shape, 3, dtype=dtype, generator=generator(1))


def draw(module, x, relaxation=None, tau=0.7, seed=2):
    """The output inside a supernet without choices, and the weights that its relaxation draws."""
    relaxation = relaxation or GumbelSoftmax()
    supernet = nas.Supernet(module)
    output = supernet(x, op_weights=supernet.sample(relaxation, tau, generator=generator(seed)))
    return output, relaxation(module.gate(x).flatten(0, -2), tau, generator=generator(seed))


def outputs_of(module, x):
    """(N, n, outputs) of all experts."""
    return torch.stack([expert(x.flatten(0, -2)) for expert in module.experts], 1)


@pytest.mark.parametrize("shape", [(7,), (2, 5), (2, 3, 4)])
def test_all_experts_with_soft_weights_are_the_dense_mixture_with_its_gradients(shape):
    module, x = layer(k=4), inputs(*shape)
    output, weights = draw(module, x)
    dense = torch.einsum("nk,nko->no", weights, outputs_of(module, x)).view(*shape, 2)
    torch.testing.assert_close(output, dense, rtol=0, atol=1e-12)
    found, expected = (torch.autograd.grad(y.cos().sum(), list(module.parameters())) for y in (output, dense))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_hard_draws_are_a_loop_over_samples_with_the_straight_through_gradient():
    module, x = layer(k=1), inputs(50)
    output, weights = draw(module, x, GumbelSoftmax(hard=True))
    alone = torch.stack([module.experts[int(w.argmax())](row[None])[0] for row, w in zip(x, weights, strict=True)])
    torch.testing.assert_close(output, alone, rtol=0, atol=1e-12)
    _, soft = draw(module, x)
    chosen = soft.argmax(-1)
    gate = module.gate.weight
    (found,) = torch.autograd.grad(output.cos().sum(), gate, retain_graph=True)
    dot = -(alone.sin() * alone).detach().sum(-1)  # of the output's gradient and the output
    (expected,) = torch.autograd.grad((soft[torch.arange(50), chosen] * dot).sum(), gate)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_one_expert_of_soft_draws_has_weight_1_and_the_gradient_of_its_log_weight():
    module, x = layer(k=1), inputs(50)
    output, weights = draw(module, x)
    index = weights.argmax(-1)
    alone = outputs_of(module, x)[torch.arange(50), index]
    torch.testing.assert_close(output, alone, rtol=0, atol=1e-12)
    (found,) = torch.autograd.grad(output.sum(), module.gate.weight)
    logs = weights[torch.arange(50), index].log()
    (expected,) = torch.autograd.grad((logs * alone.detach().sum(-1)).sum(), module.gate.weight)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_two_of_four_are_weighted_by_their_share():
    module, x = layer(), inputs(30)
    output, weights = draw(module, x)
    outputs = outputs_of(module, x)
    for row in range(30):
        a, b = weights[row].topk(2).indices
        total = weights[row, a] + weights[row, b]
        expected = (weights[row, a] * outputs[row, a] + weights[row, b] * outputs[row, b]) / total
        torch.testing.assert_close(output[row], expected, rtol=0, atol=1e-12)


def test_gradients_of_experts_and_input_by_finite_differences():
    """In eval mode nothing is drawn; the choice of experts is constant near a point."""
    module = layer().eval()
    names, values = zip(*((n, p) for n, p in module.named_parameters() if n.startswith("experts")), strict=True)

    def output(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    x = inputs(6).requires_grad_()
    assert module.gate(x).topk(3).values.diff(dim=-1).abs().min() > 1e-3  # far from a tie for steps of 1e-6
    frozen = copy.deepcopy(module)

    def routed_output(*parameters):
        return output(x.detach(), *parameters)

    assert torch.autograd.gradcheck(routed_output, values)
    frozen.gate = _Constant(module.gate(x).detach())
    assert torch.autograd.gradcheck(frozen, (x,))


class _Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, _):
        return self.logits


@pytest.mark.parametrize("k", [1, 2, 4])
def test_each_token_runs_through_k_experts_and_each_expert_once(k):
    module, x = layer(k=k), inputs(10, 9)
    calls = []
    for expert in module.experts:
        expert.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    module(x)
    assert len(calls) <= 4 and sum(calls) == 90 * k
    assert module.num_tokens.tolist() == calls and len(calls) == 4  # 90 tokens: all are drawn


def test_frequencies_of_draws_are_the_softmax_of_the_logits():
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=DOUBLE)
    module = Routed([nn.Identity() for _ in range(4)], _Constant(logits.expand(20_000, 4)), tau=0.3)
    torch.manual_seed(0)
    module(torch.zeros(20_000, 1, dtype=DOUBLE))
    expected = torch.softmax(logits, 0) * 20_000
    assert chisquare(module.num_tokens.numpy(), expected.numpy()).pvalue > 0.01  # fixed seed


def test_two_experts_are_drawn_without_replacement():
    """The probability of a pair: p_i p_j (1 / (1 - p_i) + 1 / (1 - p_j))."""
    logits = torch.tensor([0.0, 1.0, -0.5], dtype=DOUBLE)
    p = torch.softmax(logits, 0)
    module = Routed([nn.Identity() for _ in range(3)], _Constant(logits.expand(20_000, 3)), k=2)
    torch.manual_seed(0)
    module(torch.zeros(20_000, 1, dtype=DOUBLE))
    pairs = {pair: float(p[list(pair)].prod() * (1 / (1 - p[list(pair)])).sum()) for pair in [(0, 1), (0, 2), (1, 2)]}
    assert sum(pairs.values()) == pytest.approx(1)
    missing = (20_000 - module.num_tokens).tolist()  # tokens of the pair of the others
    assert chisquare(missing, [20_000 * pairs[pair] for pair in [(1, 2), (0, 2), (0, 1)]]).pvalue > 0.01  # fixed seed


def test_imbalance_in_closed_form_is_least_where_experts_get_equal_shares():
    made_up = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]], dtype=DOUBLE)  # means 0.4, 0.3, 0.3
    assert float(imbalance(made_up)) == pytest.approx(3 * (0.16 + 0.09 + 0.09) - 1)
    assert float(imbalance(torch.eye(3, dtype=DOUBLE))) == pytest.approx(0, abs=1e-12)
    assert float(imbalance(torch.eye(3, dtype=DOUBLE)[[1, 1]])) == pytest.approx(2)
    assert torch.autograd.gradcheck(imbalance, made_up.requires_grad_())
    for _, row in zip(range(20), torch.randn(20, 6, 3, dtype=DOUBLE, generator=generator()), strict=True):
        assert float(imbalance(torch.softmax(row, -1))) > 0


def test_a_block_collects_the_terms_of_the_layers_that_run_in_train_mode():
    module, x = nn.Sequential(layer(k=1), nn.Linear(2, 3, dtype=DOUBLE), layer(k=2)), inputs(8)
    with balance_losses() as terms:
        hidden = module[:2](x)
        module[2](hidden)
    expected = [imbalance(torch.softmax(m.gate(y), -1)) for m, y in ((module[0], x), (module[2], hidden))]
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(sum(terms), module[0].gate.weight)
    assert gradient.abs().sum() > 0
    module(x)
    copy.deepcopy(module)  # no graph is left in the module
    with balance_losses() as others:
        module.eval()(x)
    assert len(terms) == 2 and not others


class Balanced(Classification):
    """A task that adds the balance losses of the forward pass to its loss."""

    @contextmanager
    def observing(self, network):
        with balance_losses() as self.terms:
            yield

    def loss(self, output, target):
        return super().loss(output, target) + 0.5 * sum(self.terms)


def test_a_task_of_a_search_adds_the_balance_losses():
    module, x, target = layer(k=1), inputs(8), torch.tensor([0, 1] * 4)
    supernet, task = nas.Supernet(module), Balanced(num_classes=2)
    sample = supernet.sample(GumbelSoftmax(), 1.0, generator=generator())
    output = observed(task, supernet, x, op_weights=sample)
    expected = nn.functional.cross_entropy(output, target) + 0.5 * imbalance(torch.softmax(module.gate(x), -1))
    torch.testing.assert_close(task.loss(output, target), expected, rtol=0, atol=1e-12)


def test_training_on_the_balance_loss_alone_balances_the_load():
    module, x = layer(k=1), inputs(1000)
    with torch.no_grad():
        module.gate.bias[0] += 4
    optimizer = torch.optim.Adam(module.gate.parameters(), lr=0.2)
    for _ in range(50):
        with balance_losses() as terms:
            module(x)
        optimizer.zero_grad()
        sum(terms).backward()
        optimizer.step()
    module.num_tokens.zero_()
    module(x)
    assert (module.num_tokens / 1000 - 0.25).abs().max() < 0.06  # four standard deviations of a binomial count


def test_an_unused_expert_is_named_once(monkeypatch):
    monkeypatch.setattr(routed, "PATIENCE", 50)
    logits = torch.tensor([0.0, -1e4, 0.0]).expand(60, 3)
    module = Routed([nn.Identity() for _ in range(3)], _Constant(logits))
    x = torch.zeros(60, 1)
    for _ in range(2):
        module(x)
    with pytest.warns(UserWarning, match=r"nothing was routed to expert 1 of 3 among the last 180 tokens") as found:
        for _ in range(5):
            module(x)
    assert len(found) == 1


def test_eval_mode_runs_the_most_probable_experts_and_draws_nothing():
    module, x = layer().eval(), inputs(20)
    p = torch.softmax(module.gate(x), -1)
    outputs = outputs_of(module, x)
    kept = torch.zeros_like(p).scatter(1, p.topk(2).indices, 1.0) * p
    expected = torch.einsum("nk,nko->no", kept / kept.sum(-1, keepdim=True), outputs)
    state = torch.get_rng_state()
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state) and not module.num_tokens.any()
    supernet = nas.Supernet(module)
    sampled = supernet(x, op_weights=supernet.sample(GumbelSoftmax(), 5.0, generator=generator()))
    assert torch.equal(sampled, module(x))


def test_a_layer_alone_draws_at_its_tau_and_a_layer_in_a_supernet_at_that_of_the_supernet():
    module, x = layer(k=4, tau=0.1), inputs(40)
    torch.manual_seed(3)
    alone = module(x)
    torch.manual_seed(3)
    weights = GumbelSoftmax()(module.gate(x), 0.1)
    torch.testing.assert_close(alone, torch.einsum("nk,nko->no", weights, outputs_of(module, x)), rtol=0, atol=1e-12)
    torch.manual_seed(3)
    module.tau = 5.0
    assert not torch.allclose(module(x), alone)
    assert torch.equal(draw(module, x)[0], draw(module, x)[0])  # keyed to the supernet's generator


def test_no_tokens_give_an_empty_output_and_gradients_of_zero():
    module = layer()
    output = module(inputs(0, 5))
    assert output.shape == (0, 5, 2)
    with balance_losses() as terms:
        module(inputs(0))
    assert not terms
    output.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


def test_experts_without_tokens_do_not_run():
    module = layer(k=1)
    with torch.no_grad():
        module.gate.bias.copy_(torch.tensor([0.0, 1e4, 0.0, 0.0]))
    module(inputs(5)).sum().backward()
    assert [expert[0].weight.grad is None for expert in module.experts] == [True, False, True, True]


def test_images_are_routed_as_samples():
    torch.manual_seed(0)
    gate = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    module = Routed([nn.Conv2d(2, 5, 3) for _ in range(3)], gate).eval()
    x = torch.randn(6, 2, 4, 4)
    expected = [module.experts[int(gate(row[None]).argmax())](row[None])[0] for row in x]
    torch.testing.assert_close(module(x), torch.stack(expected))  # float32


def test_bfloat16_keeps_its_type_and_trains():
    module, x = layer(dtype=torch.bfloat16), inputs(20, dtype=torch.bfloat16)
    output = module(x)
    output.sum().backward()
    assert output.dtype is torch.bfloat16 and module.gate.weight.grad.isfinite().all()
    exact = copy.deepcopy(module).double().eval()
    torch.testing.assert_close(module.eval()(x).double(), exact(x.double()), rtol=0, atol=0.03)  # 8 bits of about 1
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(dtype=torch.float32)(inputs(4, dtype=torch.float32)).dtype is torch.bfloat16


def test_a_state_dict_restores_outputs_and_counts():
    module, other = layer(), layer()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    module(inputs(20))
    other.load_state_dict(module.state_dict())
    assert int(other.num_tokens.sum()) == 40
    assert torch.equal(other.eval()(inputs(9)), module.eval()(inputs(9)))


def test_torch_export_and_onnx_take_any_number_of_tokens(tmp_path):
    module, x = layer(dtype=torch.float32).eval(), inputs(8, dtype=torch.float32)
    tokens = torch.export.Dim("tokens")
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: tokens},)).module()
    for size in (1, 8, 30):
        y = inputs(size, dtype=torch.float32)
        torch.testing.assert_close(exported(y), module(y), rtol=0, atol=1e-6)  # float32: other sizes of products
    runtime = pytest.importorskip("onnxruntime")
    torch.onnx.export(module, (x,), tmp_path / "m.onnx", dynamo=True, dynamic_shapes=({0: tokens},), verbose=False)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    y = inputs(30, dtype=torch.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: y.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module(y), rtol=0, atol=1e-5)


def test_a_compiled_layer_computes_the_same():
    """The backend runs the traced graph as it is."""
    x = inputs(8)
    for module in (layer().eval(), layer(k=4)):
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        outputs = []
        for function in (module, compiled):
            torch.manual_seed(0)
            outputs.append(function(x))
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)


def test_a_meta_copy_gives_shapes():
    with torch.device("meta"):
        module = Routed([nn.Linear(3, 2) for _ in range(4)], nn.Linear(3, 4), k=2)
        assert module(torch.zeros(6, 3)).shape == (6, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must lie in 1 to 4"),
        ({"k": 5}, "k must lie in 1 to 4, the number of experts; got 5"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"tau": math.nan}, "tau must be above 0"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        layer(**change)


def test_bad_shapes_and_logits_are_refused():
    module, x = layer(), inputs(20)
    module.gate = nn.Linear(3, 5, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"4 experts, got \(20, 5\)"):
        module(x)
    module.gate = nn.Linear(3, 4, dtype=DOUBLE)
    module.experts[2] = nn.Linear(3, 7, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"expert 2 maps .* to \(\d+, 7\); expected \(\d+, 2\), as of expert 0"):
        module(x)
    for is_training in (True, False):
        with pytest.raises(ValueError, match="the logits hold NaN"):
            module.train(is_training)(x * math.nan)


def test_several_experts_need_soft_draws():
    with pytest.raises(ValueError, match="k is 2, but each draw has one expert only"):
        draw(layer(k=2), inputs(5), GumbelSoftmax(hard=True))


def test_the_expected_switch_loss_is_the_imbalance_plus_1():
    """By enumeration of all draws of two tokens: n times the sum of load and mean probability."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.4, 0.5]], dtype=DOUBLE)
    expected = 0.0
    for pair in itertools.product(range(3), repeat=2):
        load = sum(nn.functional.one_hot(torch.tensor(i), 3) for i in pair) / 2
        expected += float(p[0, pair[0]] * p[1, pair[1]] * 3 * (load * p.mean(0)).sum())
    assert float(imbalance(p)) == pytest.approx(expected - 1)
