"""The derived network that a search keeps in its run folder, so that its weights are read without the training data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from nas.export.manifest import own_tensors, read_safetensors
from nas.io.files import write_atomic
from nas.io.json_file import checksum
from nas.io.reading import MAX_TENSOR_BYTES, check_size
from nas.runs.folder import RunFolder


def keep_network(folder: RunFolder, network: nn.Module, choices: Mapping[str, Any]) -> None:
    """Writes derived.safetensors: the weights, and the hash of the choices that they belong to.

    A network whose state holds other objects than tensors is not written; it is derived again when it is asked for.
    """
    if all(isinstance(value, Tensor) for value in network.state_dict().values()):
        write_atomic(folder.derived, save(own_tensors(network), {"choices_sha256": checksum(dict(choices))}))


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
    tensors, metadata = read_safetensors(path)
    if metadata.get("choices_sha256") != checksum(dict(choices)):
        warnings.warn(f"{path}: of another genotype than genotype.json; {again}", stacklevel=2)
        return None
    return tensors
