"""The Hugging Face folder of a smaller model of transformers: plain transformers loads it, without this framework."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.export.manifest import CONFIG
from nas.io.errors import UsageError
from nas.supernet.candidates import Skip
from nas.supernet.modules import copied

MODELING = "modeling_small"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("preprocessor_config.json", "processor_config.json"),
)
"""Files that say how texts and images become inputs."""
_SOURCE = Path(__file__).with_name(f"{MODELING}.py")


def is_pretrained(network: nn.Module) -> bool:
    """Whether a network is a model of transformers."""
    transformers = sys.modules.get("transformers")  # a model of transformers has imported the package
    return transformers is not None and isinstance(network, transformers.PreTrainedModel)


def without_cache(network: nn.Module) -> nn.Module:
    """The network, or a copy of a model of transformers whose output is without the cache of keys and values."""
    if is_pretrained(network) and getattr(network.config, "use_cache", False):
        network = copied(network)
        network.config.use_cache = False  # type: ignore[union-attr]
    return network


def find_tokenizer(tokenizer: Any) -> Any:
    """A tokenizer for :func:`save_pretrained`: one of transformers, or the files of a folder; raises UsageError for another object."""
    if tokenizer is None or callable(getattr(tokenizer, "save_pretrained", None)):
        return tokenizer
    if not isinstance(tokenizer, (str, Path)):
        raise UsageError(f"tokenizer: neither a tokenizer of transformers nor a folder, but {type(tokenizer).__name__}")
    if not (files := _tokenizer_files(Path(tokenizer))):
        raise UsageError(f"tokenizer: no file of a tokenizer in {tokenizer}, such as tokenizer.json")
    return files


def _tokenizer_files(folder: Path) -> list[Path]:
    return [path for name in TOKENIZER_FILES if (path := folder / name).is_file()]


def _save_tokenizer(tokenizer: Any, parent: str, folder: Path) -> None:
    if tokenizer is None:
        tokenizer = _tokenizer_files(Path(parent)) if parent else []
    if isinstance(tokenizer, list):
        for path in tokenizer:
            shutil.copyfile(path, folder / path.name)
    else:
        tokenizer.save_pretrained(folder)


def save_pretrained(network: nn.Module, folder: Path, tokenizer: Any = None) -> None:
    """Writes a derived model of transformers as a folder for ``from_pretrained``.

    The config has its number of blocks. If some layers are smaller than those of the stock class, the config has their sizes too, and a
    modeling file builds the stock class and makes these layers smaller. The files of a tokenizer go along: those of
    :func:`find_tokenizer`, otherwise those in the folder from which the parent was loaded.

    Raises:
        ValueError: The network is no model of transformers, or differs from its stock class in more than sizes and dropped blocks.
    """
    if not is_pretrained(network):
        raise ValueError(f"{type(network).__name__} is no model of transformers (PreTrainedModel)")
    model: Any = copied(network)
    kind = type(model)
    found = getattr(sys.modules.get(kind.__module__), kind.__name__, None)  # the modeling file imports it by name
    if found is not kind or not kind.__module__.startswith("transformers."):
        raise ValueError(f"{kind.__name__} of {kind.__module__} is not a class of transformers itself")
    _close_list(model)
    small = sizes(model)
    _use_cache(model)
    is_stock = not any(small.values())
    with _quiet():  # names of tensors are converted for stock classes only, by the name of the class
        model.save_pretrained(folder, save_original_format=is_stock)
        _save_tokenizer(tokenizer, model.name_or_path, folder)
    if is_stock:
        return
    name = f"Small{kind.__name__}"
    source = _SOURCE.read_text().replace("from transformers import", f"from {kind.__module__} import")
    (folder / f"{MODELING}.py").write_text(source.replace("PreTrainedModel", kind.__name__))
    config = json.loads((folder / CONFIG).read_text())
    config |= {
        "architectures": [name],
        "auto_map": {auto: f"{MODELING}.{name}" for auto in auto_classes(model)},
        "small": small,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def sizes(model: Any) -> dict[str, Any]:
    """How a model differs from its stock class: ``dropped`` blocks, and ``layers``, path -> name -> number or shape.

    Raises:
        ValueError: The model differs in other ways.
    """
    with torch.device("meta"):
        stock = type(model)(model.config)
    dropped = [path for path, module in model.named_modules() if isinstance(module, Skip)]
    for path in dropped:
        stock.set_submodule(path, Skip())
    own, other = dict(model.named_modules()), dict(stock.named_modules())
    if own.keys() != other.keys():
        path = min(own.keys() ^ other.keys())
        raise ValueError(f"{path} is not in both the network and {type(model).__name__} of its config")
    layers = {path: changed for path in own if (changed := dict(_changes(path, own[path], other[path])))}
    return {"dropped": dropped, "layers": layers}


def _changes(path: str, layer: nn.Module, stock: nn.Module) -> Iterator[tuple[str, Any]]:
    """Numbers and shapes of a layer that differ from those of the stock layer."""
    if type(layer) is not type(stock):
        raise ValueError(f"{path} is a {type(layer).__name__}, in the stock class a {type(stock).__name__}")
    for name, value in vars(layer).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if {*map(type, numbers)} <= {int, float} and name in vars(stock) and value != vars(stock)[name]:
            yield name, list(value) if isinstance(value, tuple) else value
    for own, other in ((layer._parameters, stock._parameters), (layer._buffers, stock._buffers)):
        for name in {**own, **other}:
            tensor, whole = own.get(name), other.get(name)
            is_saved = name not in layer._non_persistent_buffers_set
            if tensor is None or whole is None:
                if is_saved and tensor is not whole:
                    raise ValueError(f"{path}.{name} is not in both the network and the stock class")
            elif tensor.shape != whole.shape:
                if not is_saved:
                    raise ValueError(f"{path}.{name} is cut, and is no saved tensor")
                yield name, list(tensor.shape)


def _close_list(model: Any) -> None:
    """Removes dropped blocks from the list of blocks that the config counts, if there is one list."""
    config = model.config.get_text_config()
    count = getattr(config, "num_hidden_layers", None)
    lists = [
        (path, list(module))
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(lists) != 1 or not any(isinstance(block, Skip) for block in lists[0][1]):
        return
    ((path, blocks),) = lists
    kept = [i for i, block in enumerate(blocks) if not isinstance(block, Skip)]
    model.set_submodule(path, nn.ModuleList(blocks[i] for i in kept))
    for key, value in config.to_dict().items():
        if key.endswith("layer_types") and isinstance(value, list) and len(value) == count:
            setattr(config, key, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)
    for i, number in enumerate(kept):
        for module in blocks[number].modules():
            if "layer_idx" in vars(module):
                vars(module)["layer_idx"] = i


def _use_cache(model: Any) -> None:
    """Generation uses a cache as the class of the config does: the cache is off for the trace of a conversion alone."""
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = type(model.config)().use_cache
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.use_cache = True


def auto_classes(model: Any) -> list[str]:
    """The classes of transformers that load a model of this class by its config."""
    from transformers.models.auto import modeling_auto

    found = []
    for name, auto in vars(modeling_auto).items():
        mapping: Mapping[Any, Any] = getattr(auto, "_model_mapping", None) or {}
        if name.startswith("AutoModel") and type(model.config) in mapping:
            kinds = mapping[type(model.config)]
            if type(model) in (kinds if isinstance(kinds, tuple) else (kinds,)):
                found.append(name)
    return sorted(found, key=len) or ["AutoModel"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
