"""The proof of a group: the network with masks equals the network with smaller layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from nas.conversion.attach import Number, attach, norm_shapes, possible_numbers, width_of
from nas.conversion.depth import gate
from nas.conversion.groups import Group, Solution
from nas.io.errors import first_line
from nas.io.rng import untouched_rng
from nas.supernet.gate import DROP, KEEP
from nas.supernet.structure import active_choices
from nas.supernet.supernet import Supernet
from nas.supernet.width import Width

TOLERANCE = 1e-5  # of the largest output; float32 sums in another order


def perturbed(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    """A copy with other biases and norms. In a fresh network they are 0 and 1, and hide what they would do to dropped channels.

    Batch norms get the statistics of the example, because activations of a deep fresh network vanish otherwise.
    """
    model = copy.deepcopy(model)
    _fit_batch_norms(model, args, kwargs)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if (
                tensor.numel() == max(tensor.shape, default=0) and tensor.is_floating_point()
            ):  # one number for each channel
                noise = torch.rand(tensor.shape, generator=source).to(tensor)
                tensor.mul_(1 + 0.1 * noise) if "var" in name else tensor.add_(0.1 * noise)
    return model


def _fit_batch_norms(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        with torch.no_grad(), untouched_rng():
            model(*args, **kwargs)
    except ValueError:
        pass  # one value for each channel has no variance: the statistics before are kept
    for norm, momentum in zip(norms, before, strict=True):
        norm.eval()
        norm.momentum = momentum


@torch.no_grad()
def difference(
    supernet: Supernet, choices: Mapping[str, str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[float, str]:
    """The largest difference between the masked and the derived network, relative to the largest output, and an error of the latter."""
    try:
        small = _tensors(supernet.derive(choices)(*args, **kwargs))
        masked = _tensors(supernet(*args, op_weights=supernet.one_hot(choices), **kwargs))
    except Exception as error:
        return float("inf"), first_line(error)
    if [t.shape for t in small] != [t.shape for t in masked]:
        return float("inf"), "its outputs have another shape"
    if not all(bool(t.isfinite().all()) for t in (*small, *masked)):
        return float("inf"), "its outputs are not finite"
    largest = max((float(t.abs().max()) for t in masked if t.numel()), default=0.0)
    found = max((float((a - b).abs().max()) for a, b in zip(small, masked, strict=True) if a.numel()), default=0.0)
    return (found / largest if largest else found), ""


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _names(way: Sequence[Number]) -> set[str]:
    return {name for _, name, _ in way}


class Proof:
    """Finds the groups of which the masked and the cut network are equal."""

    def __init__(
        self,
        model: nn.Module,
        solution: Solution,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        sizes: Mapping[str, list[int]],
    ) -> None:
        """Makes the perturbed copy that all groups are proven on."""
        self.args, self.kwargs, self.solution = args, kwargs, solution
        self.model = perturbed(model, args, kwargs)
        self.shapes = norm_shapes(self.model, solution, args, kwargs)
        self.sizes = sizes

    def attach(self, network: nn.Module, groups: Sequence[Group], numbers: Mapping[str, Sequence[Number]]) -> None:
        """Puts the groups into a network."""
        widths: dict[str, Width] = {group.name: width_of(group, self.sizes[group.name]) for group in groups}
        attach(network, self.solution, widths, numbers, self.shapes)

    def of(self, groups: Sequence[Group], whole: dict[str, str]) -> dict[str, list[Number]]:
        """Name of a proven group -> the attributes that count its units; `whole` gets the reasons of the others.

        Groups are proven together; where that fails, in halves, each together with all groups that are proven already. What counts the
        heads of one group is tried first for the others.
        """
        modules = dict(self.model.named_modules())
        ways = {group.name: list(possible_numbers(group, modules)) for group in groups}
        proven: list[Group] = []
        numbers: dict[str, list[Number]] = {}
        waiting = [list(groups)] if groups else []
        while waiting:
            part = waiting.pop()
            reason: str | None = None
            for i in range(len(ways[part[0].name]) if len(part) == 1 else 1):
                tried = {**numbers, **{group.name: ways[group.name][i] for group in part}}
                reason = self.fails([*proven, *part], tried)
                if reason is None:
                    proven += part
                    numbers = tried
                    for others in ways.values() if i else ():
                        others.sort(key=lambda way: _names(way) != _names(tried[part[0].name]))
                    break
            if reason is None:
                continue
            if len(part) == 1:
                whole[part[0].name] = reason
            else:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
        return numbers

    def of_blocks(
        self,
        blocks: Sequence[str],
        groups: Sequence[Group],
        numbers: Mapping[str, Sequence[Number]],
        whole: dict[str, str],
    ) -> list[str]:
        """The blocks that can be dropped, beside the groups; `whole` gets the reasons of the others."""
        if not blocks or self.fails(groups, numbers, blocks) is None:
            return list(blocks)
        kept: list[str] = []
        for path in blocks:
            reason = self.fails(groups, numbers, [*kept, path])
            if reason is None:
                kept.append(path)
            else:
                whole[path] = reason
        return kept

    def fails(
        self, groups: Sequence[Group], numbers: Mapping[str, Sequence[Number]], blocks: Sequence[str] = ()
    ) -> str | None:
        """Why the network with these groups and blocks is not equal to the cut one; None if it is, for a few architectures.

        The widths are the smallest, then in the middle; the blocks are dropped, then kept.
        """
        tensors = [*self.model.parameters(), *self.model.buffers()]
        network = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        try:
            self.attach(network, groups, numbers)
            gate(network, blocks)
            supernet = Supernet(network).eval()
        except (ValueError, KeyError, IndexError, AttributeError) as caught:
            return str(caught)
        for position in (0.0, 0.5):
            choices = {name: labels[int(position * (len(labels) - 1))] for name, labels in supernet.choices.items()}
            choices |= dict.fromkeys(blocks, DROP if position == 0.0 else KEEP)
            choices = active_choices(network, choices)
            found, error = difference(supernet, choices, self.args, self.kwargs)
            if not found <= TOLERANCE:
                return error or f"masked and cut network differ by {found:.1e} of the largest output"
        return None
