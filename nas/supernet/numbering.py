"""The numbers by which blocks of transformers find their keys and values in a cache."""

from __future__ import annotations

from typing import Any

from torch import nn

from nas.supernet.candidates import Skip


def renumber_blocks(network: nn.Module) -> None:
    """Lowers ``layer_idx`` in the blocks of a list where blocks before them were dropped.

    A cache takes the length of the past from its first entry, or from the first of a type where the config has layers of several types.
    That entry must not be the one of a dropped block, so the blocks that are left get the first entries of their type.
    """
    types = getattr(getattr(network, "config", None), "layer_types", None) or ()
    for blocks in network.modules():
        if not isinstance(blocks, nn.ModuleList) or not any(isinstance(block, Skip) for block in blocks):
            continue
        entries: dict[Any, list[int]] = {}
        for i in range(len(blocks)):
            entries.setdefault(types[i] if len(types) == len(blocks) else None, []).append(i)
        for numbers in entries.values():
            kept = [i for i in numbers if not isinstance(blocks[i], Skip)]
            for number, i in zip(numbers, kept, strict=False):
                for module in blocks[i].modules():
                    if vars(module).get("layer_idx") == i:
                        vars(module)["layer_idx"] = number
