"""Checks of custom components, for use in tests. A failed check raises AssertionError that names the broken rule.

Example: ``nas.testing.check_relaxation(MyRelaxation())``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import TensorDataset

from nas.bilevel import Bilevel
from nas.costs.functions import CostFunction, count_macs, num_params
from nas.costs.tabulate import CostModel
from nas.data import SearchDataModule, StreamingDataModule
from nas.data.loader import num_samples
from nas.io.rng import untouched_rng
from nas.relaxations import GumbelSoftmax, Relaxation
from nas.supernet.building import architecture
from nas.supernet.choices import choice
from nas.supernet.places import places_of
from nas.supernet.search_space import SearchSpace
from nas.supernet.structure import random_choices
from nas.supernet.supernet import Supernet
from nas.tasks import Classification
from nas.tau import Constant, TauSchedule
from nas.training.search_module import SearchModule


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise AssertionError(rule)


def check_search_space(space: SearchSpace, inputs: Sequence[Tensor], *, num_architectures: int = 10) -> None:
    """Checks that the networks of a space agree: supernet, derived networks, and networks built under ``nas.architecture``.

    The check draws random architectures. Derived and built networks must have the same state-dict keys and shapes, and no choices.
    The derived network and the supernet with one-hot op weights must have equal outputs. The cost tables must give the parameters and
    MACs of the derived network. If the space does not inherit weights, only built networks are checked.

    Args:
        space: The space.
        inputs: Arguments of its network, at least two samples.
        num_architectures: Number of random architectures.
    """
    network = space.network("search")
    _require(isinstance(network, nn.Module), "network() must return an nn.Module")
    _require(space.network("search") is not network, "network() must return a new network at each call")
    supernet = Supernet(network).eval()
    _require(bool(supernet.choices), "the network has no choices")
    larger = space.network("retrain")
    _require(isinstance(larger, nn.Module), 'network("retrain") must return an nn.Module')
    _require(
        Supernet(larger).choices == supernet.choices, 'network("retrain") must have the choices of network("search")'
    )
    uniform = {name: {label: 1 / len(labels) for label in labels} for name, labels in supernet.choices.items()}
    try:
        with architecture(supernet.prune(space.discretize(uniform))):
            space.network("search")
    except ValueError as error:
        raise AssertionError(f"discretize() must return a genotype of the space: {error}") from error
    for seed in range(num_architectures):
        choices = random_choices(network, seed)
        built = {}
        for stage in ("search", "retrain"):
            with architecture(choices):
                built[stage] = space.network(stage)
            _require(not Supernet(built[stage]).choices, f"a choice is left in the network of {choices}")
        if space.inherits_weights:
            _check_derived(supernet, choices, built["search"], inputs)
    for stage in ("search", "retrain") if space.inherits_weights else ("retrain",):
        _check_costs(space, stage, [tensor[:1] for tensor in inputs], num_architectures)


def _check_derived(supernet: Supernet, choices: dict[str, Any], fresh: nn.Module, inputs: Sequence[Tensor]) -> None:
    derived = supernet.derive(choices)
    shapes = [{key: tuple(value.shape) for key, value in net.state_dict().items()} for net in (derived, fresh)]
    _require(shapes[0] == shapes[1], f"derived and newly built network differ in state-dict keys or shapes: {choices}")
    trained = [[name for name, p in net.named_parameters() if p.requires_grad] for net in (derived, fresh)]
    _require(trained[0] == trained[1], f"derived and newly built network differ in trained parameters: {choices}")
    _require(not Supernet(derived).choices, f"a choice is left in the network of {choices}")
    with torch.no_grad():
        folded, mixed = (_mixed(supernet, choices, inputs, fold) for fold in (True, False))
        plain = derived(*inputs)
    cut = any(place.cuts for place in places_of(supernet.network))
    _require(_equal(mixed, plain, cut), f"the outputs of derived network and supernet differ: {choices}")
    # merged convolutions round differently
    _require(
        _equal(folded, plain, True),
        f"the outputs of derived network and supernet with folded op weights differ: {choices}",
    )


def _mixed(supernet: Supernet, choices: dict[str, Any], inputs: Sequence[Tensor], fold: bool) -> Any:
    before, supernet.fold_weights = supernet.fold_weights, fold
    try:
        return supernet(*inputs, op_weights=supernet.one_hot(choices))
    finally:
        supernet.fold_weights = before


def _check_costs(space: SearchSpace, stage: str, inputs: Sequence[Tensor], num_architectures: int) -> None:
    supernet = Supernet(space.network(stage))
    model = CostModel(supernet, inputs)
    costs: dict[str, CostFunction] = {"params": num_params, "macs": count_macs}
    for name, cost in costs.items():
        try:
            table = model.table(name, cost)
        except ValueError as error:
            raise AssertionError(f"the table of {name} of the {stage} network: {error}") from error
        for seed in range(num_architectures):
            choices = random_choices(supernet.network, seed)
            said, counted = table.of(choices), cost(supernet.derive(choices), inputs)
            _require(
                said == counted, f"the table of {name} gives {said:,.0f}, but the network has {counted:,} ({choices})"
            )


def _equal(a: Any, b: Any, cut: bool) -> bool:
    if isinstance(a, Tensor):
        # with cut channels, sums over fewer elements round differently from sums that include zeros
        return torch.allclose(a, b, rtol=1e-4, atol=1e-5) if cut else torch.equal(a, b)
    return len(a) == len(b) and all(_equal(x, y, cut) for x, y in zip(a, b, strict=True))


def check_relaxation(relaxation: Relaxation, *, tau: float = 1.0) -> None:
    """Checks that op weights lie on the simplex and respect masks and generators, and that alpha gets a finite gradient.

    Args:
        relaxation: The relaxation.
        tau: A valid temperature.
    """
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1, 3:] = False

    def draw(seed: int) -> Tensor:
        return relaxation(logits, tau, mask=mask, generator=torch.Generator().manual_seed(seed))

    weights = draw(1)
    _require(weights.shape == logits.shape, "op weights must have the shape of the logits")
    _require(bool(torch.isfinite(weights).all()), "op weights must be finite")
    _require(bool((weights >= 0).all()), "op weights must not be negative")
    # a float32 softmax of 5 terms is off by a few units of 6e-8
    _require(torch.allclose(weights.sum(-1), torch.ones(4), atol=1e-5), "rows of op weights must sum to 1")
    _require(bool((weights[~mask] == 0).all()), "masked candidates must have weight exactly 0")
    _require(torch.equal(weights, draw(1)), "equal generators must give equal op weights")
    if relaxation.num_active is not None:
        most = int((weights != 0).sum(-1).max())
        _require(most <= relaxation.num_active, f"num_active is {relaxation.num_active}, but {most} weights are not 0")
    (gradient,) = torch.autograd.grad((weights * torch.arange(5.0)).sum(), logits)
    _require(bool(torch.isfinite(gradient).all()), "the gradient of the logits must be finite")
    _require(bool((gradient[~mask] == 0).all()), "masked logits must have gradient 0")
    _require(bool(gradient.abs().sum() > 0), "the logits get no gradient")
    probabilities = relaxation.probabilities(logits, mask)
    _require(bool((probabilities[~mask] == 0).all()), "masked candidates must have probability 0")
    _require(torch.allclose(probabilities.sum(-1), torch.ones(4), atol=1e-5), "probabilities must sum to 1")


@torch.no_grad()
def check_tau_schedule(schedule: TauSchedule) -> None:
    """Checks that tau is always a positive 0-d tensor, depends on progress and state only, and that state_dict has the state."""
    for i in range(11):
        tau = schedule(i / 10)
        _require(isinstance(tau, Tensor) and tau.dim() == 0, "tau must be a 0-d tensor")
        _require(bool(torch.isfinite(tau)) and float(tau) > 0, f"tau must be finite and above 0, got {float(tau)}")
        _require(float(schedule(i / 10)) == float(tau), "tau must not change between calls at one progress")
    other = copy.deepcopy(schedule)
    for i in range(5):
        schedule.observe(1.0 / (i + 1), i / 10)
        schedule.observe_diversity(1.0 / (i + 1), i / 10)
    other.load_state_dict(schedule.state_dict())
    for i in range(5, 11):
        _require(float(other(i / 10)) == float(schedule(i / 10)), "state_dict does not restore the schedule")


def check_data(data: SearchDataModule) -> None:
    """Checks that samples are (input, target) pairs, the splits add up to the training set, and loading resumes within an epoch."""
    if not isinstance(data, StreamingDataModule):
        _check_halves(data)
    data.example()
    whole = list(data.search_loader(seed=3))
    resumed = data.search_loader(seed=3)
    middle = len(whole) // 2
    resumed.load_state_dict({"num_done": middle})
    rest = list(resumed)
    _require(len(rest) == len(whole) - middle, "a resumed epoch must yield the remaining batches")
    same = _same(whole[middle:], rest)
    _require(same, "a resumed epoch must yield the same batches; draw augmentation from torch's generators")


def _check_halves(data: SearchDataModule) -> None:
    for name, dataset in (("train", data.train_set(True)), ("train", data.train_set(False)), ("test", data.test_set())):
        _require(num_samples(dataset) > 0, f"the {name} set is empty")
        sample = dataset[0]
        _require(isinstance(sample, (tuple, list)) and len(sample) == 2, f"a {name} sample must be (input, target)")
    size = num_samples(data.train_set(False))
    _require(num_samples(data.train_set(True)) == size, "augmentation must not change the number of samples")
    num_weight, num_arch = (num_samples(loader.dataset) for loader in (data.weight_loader(), data.arch_loader()))
    _require(num_weight + num_arch == size, "train split and arch split must add up to the training set")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


class _Points(SearchDataModule):
    """Points on a line, classified by their sign."""

    def train_set(self, augment: bool) -> TensorDataset:
        x = torch.linspace(-1.0, 1.0, 64)[:, None]
        return TensorDataset(x, (x[:, 0] > 0).long())

    def test_set(self) -> TensorDataset:
        return self.train_set(False)


class _TwoActivations(SearchSpace):
    def network(self, stage: str = "search") -> nn.Module:
        act = choice("act", {"relu": nn.ReLU, "tanh": nn.Tanh, "none": nn.Identity})
        return nn.Sequential(nn.Linear(1, 4), act, nn.Linear(4, 2))


def check_bilevel(bilevel: Bilevel, *, relaxation: Relaxation | None = None) -> None:
    """Checks a method on a tiny search: weights move, alpha moves only after the warm-up, values are finite, a repeated search is equal.

    Args:
        bilevel: The method.
        relaxation: The relaxation of the search; None: soft Gumbel-Softmax.
    """

    def searched(warmup_epochs: int) -> dict[str, Tensor]:
        with untouched_rng():
            torch.manual_seed(0)
            module = SearchModule(
                space=_TwoActivations(),
                relaxation=relaxation or GumbelSoftmax(),
                tau=Constant(1.0),
                task=Classification(2),
                bilevel=copy.deepcopy(bilevel),
                weight_optimizer=partial(SGD, lr=0.1),
                arch_optimizer=partial(SGD, lr=0.1),
                warmup_epochs=warmup_epochs,
            )
            before = {name: value.clone() for name, value in module.supernet.state_dict().items()}
            trainer = pl.Trainer(
                max_epochs=2,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Lightning's hints on devices and workers
                trainer.fit(module, _Points(batch_size=8).search_loader(0))
        _require(module.num_batches_done == 8, f"the search has 8 batches, but {module.num_batches_done} were counted")
        after = module.supernet.state_dict()
        _require(all(bool(torch.isfinite(value).all()) for value in after.values()), "weights and alpha must be finite")
        return {name: value - before[name] for name, value in after.items() if value.is_floating_point()}

    moved, again, frozen = searched(0), searched(0), searched(2)
    equal = all(torch.equal(moved[name], again[name]) for name in moved)
    _require(equal, "a repeated search with the same seed must be equal")
    weights = [value for name, value in moved.items() if name != "alpha"]
    _require(any(bool(value.abs().sum() > 0) for value in weights), "the weights must move")
    _require(bool(moved["alpha"].abs().sum() > 0), "alpha must move after the warm-up")
    _require(bool((frozen["alpha"] == 0).all()), "alpha must not move in the warm-up: see step.arch_moves")
