"""The numbers by which blocks of transformers find their keys and values in a cache."""

from __future__ import annotations

from torch import nn

from nas.supernet.candidates import Skip


def renumber_blocks(network: nn.Module) -> None:
    """Lowers ``layer_idx`` in the blocks of a list by the number of dropped blocks before them.

    A cache takes the length of the past from its first entry, which must not be that of a dropped block. Where the config has layers of
    several types, the entries have types too, and all numbers stay.
    """
    if len(set(getattr(getattr(network, "config", None), "layer_types", None) or ())) > 1:
        return
    for blocks in network.modules():
        if not isinstance(blocks, nn.ModuleList) or not any(isinstance(block, Skip) for block in blocks):
            continue
        kept = [(i, block) for i, block in enumerate(blocks) if not isinstance(block, Skip)]
        for number, (i, block) in enumerate(kept):
            for module in block.modules():
                if vars(module).get("layer_idx") == i:
                    vars(module)["layer_idx"] = number
