"""Outputs of modules inside a network, and their similarity."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

BLOCKS = "blocks"


@contextmanager
def collecting(
    network: nn.Module, paths: Sequence[str], found: MutableMapping[str, Tensor], who: str
) -> Iterator[None]:
    """Puts the outputs of modules into `found` (path -> tensor) while the network runs.

    Of a tuple or list, the first element counts; of several calls, the last. `who` names the network in errors.

    Raises:
        ValueError: There is no module of a path, it did not run, or its output is not a tensor.
    """
    outputs: dict[str, Any] = {}
    with ExitStack() as hooks:
        for path in paths:
            try:
                module = network.get_submodule(path)
            except AttributeError:
                raise ValueError(f"feature {path!r}: {who} has no such module") from None
            handle = module.register_forward_hook(lambda _, __, output, path=path: outputs.update({path: output}))
            hooks.callback(handle.remove)
        yield
    for path in paths:
        output = outputs.get(path)
        output = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(output, Tensor):
            raise ValueError(
                f"feature {path!r}: the module of {who} {'makes no tensor' if path in outputs else 'does not run'}"
            )
        found[path] = output


def blocks_of(network: nn.Module) -> list[str]:
    """The paths of the outermost modules with children that are elements of an ``nn.Sequential`` or ``nn.ModuleList``."""
    found: list[str] = []
    for path, module in network.named_modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and not any(
            path.startswith(f"{block}.") for block in found
        ):
            blocks = [name for name, child in module.named_children() if next(child.children(), None) is not None]
            found += [f"{path}.{name}" if path else name for name in blocks if path not in found]
    return found


def cka(own: Tensor, other: Tensor) -> Tensor:
    """Linear centered kernel alignment of two features of the same samples: 0-d, from 0 to 1.

    The numbers of channels may differ, because only the similarities of samples count.

    Args:
        own: (B, ...).
        other: (B, ...).

    Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited".
    """
    a, b = (_centered(feature.float() if feature.dtype.itemsize < 4 else feature) for feature in (own, other))
    scale = a.norm() * b.norm()
    return (a * b).sum() / scale.clamp_min(1e-12)


def _centered(feature: Tensor) -> Tensor:
    """The inner products of all pairs of samples, around their mean: (B, B)."""
    x = feature.flatten(1)
    x = x - x.mean(0)
    return x @ x.mT
