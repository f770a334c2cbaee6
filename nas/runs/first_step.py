"""One training step before a search, for checks of the supernet."""

from __future__ import annotations

from typing import Any

import torch

from nas.evaluation import call_network, prepared
from nas.io.rng import keyed_generator
from nas.relaxations import Sampler
from nas.supernet.structure import find_rows
from nas.supernet.supernet import Supernet
from nas.supernet.width import check_reached, noting_numbers
from nas.training.search_module import SearchModule


@torch.enable_grad()
def after_a_step(module: SearchModule, inputs: Any, target: Any) -> Supernet:
    """A fresh supernet of the space, after one forward and backward pass in training mode through every candidate.

    Raises:
        ValueError: The forward pass does not use a choice, or no layer uses a width or value.
    """
    with noting_numbers() as made:
        network = module.space.network("search")
    supernet = Supernet(network).to(module.supernet.alpha).train()
    check_reached(made, supernet.choices)
    sampler = Sampler(module.relaxation, module.tau(0.0), keyed_generator(0, "try", device=supernet.alpha.device))
    with supernet.noting_used() as used:
        output = call_network(supernet, inputs, op_weights=supernet.every_candidate(sampler))
    places = find_rows(network)
    if idle := [name for name, place in places.items() if used.isdisjoint(place.rows())]:
        raise ValueError(f"the forward pass does not use choice {idle[0]!r}, so the choice cannot be trained")
    _, target = prepared(module.task, supernet, (inputs, target))
    module.task.loss(output, target).backward()
    return supernet
