"""The derived network that a search keeps in its run folder, so that its weights are read without the training data."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nas.export.manifest import read_tensors
from nas.io.errors import UsageError, describe
from nas.io.files import write_atomic
from nas.io.reading import MAX_TENSOR_BYTES, check_size
from nas.runs.folder import RunFolder


def choices_hash(choices: Mapping[str, Any]) -> str:
    """SHA-256 of the choices of a genotype, whatever their order."""
    return hashlib.sha256(json.dumps(dict(choices), sort_keys=True).encode()).hexdigest()


def keep_network(folder: RunFolder, network: nn.Module, choices: Mapping[str, Any]) -> None:
    """Writes derived.safetensors: the weights, and the hash of the choices that they belong to.

    A network whose state holds other objects than tensors is not written; it is derived again when it is asked for.
    """
    state = network.state_dict()
    if all(isinstance(value, Tensor) for value in state.values()):
        tensors = {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}
        write_atomic(folder.derived, save(tensors, {"choices_sha256": choices_hash(choices)}))


def read_kept(folder: RunFolder, choices: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The weights of derived.safetensors; None, with a warning, where the file is missing or of another genotype.

    Raises:
        UsageError: The file is damaged.
    """
    path = folder.derived
    again = "the network is derived from the checkpoint, which needs the training data"
    if not path.is_file():
        warnings.warn(f"{folder.shown}: no {path.name}; {again}", stacklevel=2)
        return None
    check_size(path, MAX_TENSOR_BYTES)
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("choices_sha256")
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path}: {describe(error)}") from None
    if found != choices_hash(choices):
        warnings.warn(f"{path}: of another genotype than genotype.json; {again}", stacklevel=2)
        return None
    return read_tensors(path)
