"""Functions that put choices into a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import nn

from nas.supernet.base import check_choice
from nas.supernet.building import Candidates, build_candidate, present_build, scoped
from nas.supernet.candidates import SumInputs, keep_input
from nas.supernet.gate import DROP, KEEP, Gate
from nas.supernet.input_choice import InputChoice, check_inputs
from nas.supernet.mixed_op import MixedOp
from nas.supernet.repeat import Repeat, check_counts
from nas.supernet.value import check_numbers, make_value
from nas.supernet.width import check_sizes, make_width


def choice(name: str, candidates: Candidates, *, shared: bool = False, search_only: Sequence[str] = ()) -> nn.Module:
    """A choice among several candidate ops.

    While searching it is a :class:`MixedOp`. Under :func:`architecture` it is the chosen candidate itself, and factories of the others
    are never called.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        candidates: label -> module, or label -> zero-argument factory of one; at least two. Labels: letters, digits and ``_ . + -``.
        shared: Several choices of this name are one decision (cells); their labels must be equal.
        search_only: Labels that compete while searching but cannot be derived (the "none" of DARTS).

    Raises:
        ValueError: A bad name or label, fewer than two candidates, or a genotype that does not fit.
    """
    name = scoped(name)
    check_choice(name, candidates, search_only)
    build = present_build()
    if build is not None:
        return build.plain(
            name, candidates, lambda label: build_candidate(candidates[label]), shared, search_only=search_only
        )
    built = {label: build_candidate(candidate) for label, candidate in candidates.items()}
    return MixedOp(name, built, shared=shared, search_only=search_only)


def gate(
    name: str,
    module: nn.Module | Callable[..., nn.Module],
    *,
    size: int | None = None,
    elements: Sequence[str] | None = None,
    dim: int = 1,
    drop: nn.Module | Callable[[], nn.Module] = nn.Identity,
    shared: bool = False,
) -> nn.Module:
    """A choice that keeps or drops a module, or each element of a module's input.

    ``nas.gate("block3", block)`` keeps or skips a layer: a choice with the labels ``drop`` and ``keep``. For a branch of a sum, pass
    ``drop=nas.supernet.candidates.Zero``.

    ``nas.gate("features", lambda n: nn.Linear(n, 16), size=30)`` keeps or drops each input feature (or channel, ``dim=1``): choices
    ``features.0`` to ``features.29``. While searching, the input is multiplied by the relaxed samples. The derived form is a plain slice
    and the module that `module` makes for the number of kept elements. Zeros of dropped elements must have no effect in that module: start
    it with a layer that sums over elements (a linear layer or a convolution), not with a norm or a bias per element.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        module: The module to keep or drop; with `size` or `elements`, a function from the number of kept elements to the module that reads
            them.
        size: Number of elements, named 0, 1, ...
        elements: Names of the elements, instead of `size`.
        dim: Dimension of the elements in the input.
        drop: Replaces a dropped module; must have the same output shape.
        shared: Several gates of this name are one decision.

    Raises:
        ValueError: A bad name, both `size` and `elements`, a module instead of a function, or a genotype that does not fit.
    """
    if size is None and elements is None:
        return choice(name, {DROP: drop, KEEP: module}, shared=shared)
    if size is not None and elements is not None:
        raise ValueError(f"gate {name!r}: give size or elements, not both")
    if isinstance(module, nn.Module):
        raise ValueError(
            f"gate {name!r}: gating elements needs a function from the number kept to a module, got a module"
        )
    named = [str(i) for i in range(size)] if size is not None else list(cast(Sequence[str], elements))
    name = scoped(name)
    build = present_build()
    if build is not None:
        return build.gate(name, module, named, dim, shared)
    return Gate(name, module, named, dim=dim, shared=shared)


def repeat(name: str, block: Callable[[int], nn.Module], counts: Sequence[int], *, shared: bool = False) -> nn.Module:
    """A choice of depth: the number of blocks in a sequence.

    Example: ``nas.repeat("depth", lambda i: Block(16), (1, 2, 4))``. While searching, the sequence runs once, and the op weights mix the
    outputs after 1, 2 and 4 blocks. The derived form is an ``nn.Sequential`` of the chosen number of blocks. Blocks may hold choices;
    choices in unused blocks are inactive.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        block: Makes the i-th block; i starts at 0.
        counts: Numbers of blocks to choose from, at least two; 0 returns the input.
        shared: Several choices of this name are one decision.

    Raises:
        ValueError: A bad name, bad counts, or a genotype that does not fit.
    """
    name = scoped(name)
    numbers = check_counts(name, counts)
    build = present_build()
    if build is not None:
        return build.plain(
            name,
            map(str, numbers),
            lambda label: nn.Sequential(*[keep_input(block(i)) for i in range(int(label))]),
            shared,
        )
    return Repeat(name, [block(i) for i in range(numbers[-1])], numbers, shared=shared)


def inputs(name: str, candidates: Candidates, k: int, *, learned: bool = True, shared: bool = False) -> nn.Module:
    """A choice of edges: k of several inputs are summed, each through its own module.

    Call the returned module with a sequence of tensors, one for each candidate. :class:`nas.supernet.input_choice.InputChoice` describes
    the weights of the inputs while searching. With exactly k candidates there is no choice, and all inputs are summed.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        candidates: label -> module of one input, or a factory of such a module, which may hold choices.
        k: Number of chosen inputs.
        learned: Whether the inputs have their own logits; otherwise the best candidates inside an input's module rank the input.
        shared: Several choices of this name are one decision (cells).

    Raises:
        ValueError: A bad name or label, a k out of range, or a genotype that does not fit.
    """
    name = scoped(name)
    build = present_build()
    if k == len(candidates):
        return SumInputs({i: build_candidate(candidate) for i, candidate in enumerate(candidates.values())})
    check_inputs(name, candidates, k)
    if build is not None:
        return build.plain(
            name,
            candidates,
            lambda chosen: SumInputs(
                {i: build_candidate(candidates[label]) for i, label in enumerate(candidates) if label in chosen}
            ),
            shared,
            num_chosen=k,
        )
    built = {label: build_candidate(candidate) for label, candidate in candidates.items()}
    return InputChoice(name, built, k, learned=learned, shared=shared)


def width(name: str, sizes: Sequence[int], *, shared: bool = False) -> int:
    """A choice of width: the number of channels (features) of layers.

    ``w = nas.width("hidden", (16, 32, 64))`` is a number to pass to layers of ``torch.nn`` as channels, features or groups:
    ``nn.Sequential(nn.Linear(8, w), nn.ReLU(), nn.Linear(w, 2))``. While searching, it is the largest size, and layers that read it
    multiply the channels beyond the chosen size by 0. Under :func:`architecture`, it is the chosen size. A derived network has smaller
    layers, which inherit the first n channels. A width can be multiplied and divided by whole numbers (``4 * w``).

    Only Linear, Conv1d to Conv3d, BatchNorm and PReLU can be cut. Other layers that mix channels (a layer norm, a softmax over channels)
    would read the zeros.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        sizes: Sizes to choose from, at least two, each at least 1.
        shared: Several widths of this name are one decision.

    Raises:
        ValueError: A bad name, bad sizes, or a genotype that does not fit.
    """
    name = scoped(name)
    numbers = check_sizes(name, sizes)
    build = present_build()
    if build is not None:
        return build.number(name, {str(size): size for size in numbers}, shared)
    return make_width(name, numbers, shared)


def value(name: str, numbers: Sequence[float], *, shared: bool = False) -> Any:
    """A choice of a number of one layer: a kernel size, a dilation, a stride, a number of heads, a rate.

    ``nn.Conv1d(16, 16, nas.value("kernel", (3, 5, 7)), dilation=nas.value("dilation", (1, 2, 4)), padding="same")`` has two independent
    choices, and nine combinations. While searching, the layer computes the op-weighted sum of its outputs for all combinations, with one
    set of weights: a smaller kernel is the center of the largest one. The op weight of a combination is the product of the op weights of
    its labels. All kernel sizes of a convolution together cost one convolution. Under :func:`architecture`, the number is the chosen one.

    A value works in any layer of ``torch.nn`` or of your own that stores it as an attribute, alone or in a tuple or list, and reads it in
    its forward. The outputs of all combinations must have one shape, and the shapes of the weights must not depend on the number; for
    numbers of channels, there is :func:`width`. A layer that stores a value of a layer inside runs once for each number.

    Calculations give a number for each combination, so that ``padding=d * (k - 1) // 2`` fits `d` and `k`. A constructor must not branch on
    a value. Comparisons, ``int()`` and ``float()`` raise ValueError if the numbers give different answers. ``range(k)``, an index, and the
    size of a tensor see the largest number, without an error; for a number of layers, there is :func:`repeat`.

    Args:
        name: Unique in the network, after the enclosing :func:`scope` prefixes.
        numbers: Numbers to choose from, at least two; their texts are the labels.
        shared: Several values of this name are one decision.

    Raises:
        ValueError: A bad name, bad numbers, or a genotype that does not fit.
    """
    name = scoped(name)
    labels = check_numbers(name, numbers)
    build = present_build()
    return make_value(name, labels, shared) if build is None else build.number(name, labels, shared)


def searching() -> bool:
    """Whether choices stay open: True outside :func:`architecture`."""
    return present_build() is None


def replace(model: nn.Module, choices: Mapping[str, Candidates]) -> nn.Module:
    """Puts choices into an existing, possibly pretrained model, in place.

    Args:
        model: Any module.
        choices: Path of a submodule, as in ``model.named_modules()`` -> candidates (the current module may be one of them).
            The path is also the choice's name.

    Returns:
        `model`, for chaining.

    Raises:
        ValueError: A path that does not exist, or bad candidates; the model is then unchanged.
    """
    paths = dict(model.named_modules(remove_duplicate=False))
    for path in choices:
        if not path or path not in paths:
            raise ValueError(f"nas.replace: the model has no submodule {path!r}")
        for other in choices:
            if path.startswith(f"{other}."):
                raise ValueError(f"nas.replace: {path!r} lies inside {other!r}, which is replaced too")
    made = {path: choice(path, candidates) for path, candidates in choices.items()}
    for path, module in made.items():
        parent, _, attribute = path.rpartition(".")
        setattr(paths[parent], attribute, module)
    return model
