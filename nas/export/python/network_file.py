"""The whole file: docstring, imports, classes, and how to load the weights."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from torch import nn
from torchvision.ops import stochastic_depth

from nas.export import plain
from nas.export.manifest import WEIGHTS
from nas.export.python.classes import NETWORK, class_sources
from nas.export.python.constructors import is_torch_layer
from nas.export.python.expressions import is_plain_name
from nas.export.python.names import Import, Names
from nas.supernet.mixed_op import mixed_sum
from nas.supernet.sampling import checkpoint

_PLAIN = {mixed_sum: plain.sum_outputs, checkpoint: plain.checkpoint, stochastic_depth: plain.stochastic_depth}

_LICENSES = {
    "torchvision": "torchvision: Copyright (c) Soumith Chintala 2016, BSD 3-Clause License",
    "nas": "gumbel-nas: Apache License 2.0",
    "search_spaces": "gumbel-nas: Apache License 2.0",
}

_LOAD = '''
def load(weights: str | Path | None = None) -> Network:
    """The network with its weights, in eval mode.

    Args:
        weights: A safetensors file; by default the one beside this file, which must be as it was exported.
    """
    import hashlib

    from safetensors.torch import load_file

    if weights is None:
        weights = WEIGHTS
        digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
        if WEIGHTS_SHA256 and digest != WEIGHTS_SHA256:
            raise ValueError(
                f"{WEIGHTS} is not as it was exported (SHA-256 differs); "
                "to load it all the same, give its path"
            )
    network = Network()
    network.load_state_dict(load_file(weights))
    return network.eval()
'''


def network_source(network: nn.Module, about: str, weights_sha256: str = "") -> str:
    """A Python file that builds a network without this framework.

    It has a class ``Network``, whose state dict has the same keys, and a function ``load`` that reads the weights from the file beside it.
    Layers of torch's are built by their constructors with the arguments that they have; other modules get a class with their own forward
    methods, written into the file with the functions that those call. Branches that the network never takes are left out, and modules that
    differ in plain values only share a class. Nothing in the file is text from outside: names are checked, values go through ``repr``.

    Args:
        network: A plain network.
        about: For the docstring: what it is and where it comes from.
        weights_sha256: Digest of the weights' file, which ``load`` checks; empty: it does not.

    Raises:
        ValueError: A module cannot be written; the message names its place and the reason.
    """
    names = Names(_PLAIN, (NETWORK, "load", "WEIGHTS", "WEIGHTS_SHA256", "Path"))
    names.imports["Path"] = Import("pathlib", "Path")
    classes = class_sources(network, names)
    endings = [f"{place} = {earlier}" for place, earlier in _ties(network)]
    endings += [f"{_place(network, path)}.requires_grad_(False)" for path in _frozen(network, "")]
    if endings:
        classes[-1] = _with_endings(classes[-1], endings)
    definitions = "\n\n".join(text.strip("\n") + "\n" for text in [*names.definitions, *classes])
    weights = f'WEIGHTS = Path(__file__).with_name("{WEIGHTS}")\nWEIGHTS_SHA256 = "{weights_sha256}"\n'
    head = [_docstring(about, names), "from __future__ import annotations\n", _imports(names), weights]
    return "\n".join(head) + "\n\n" + definitions + "\n" + _LOAD


def _docstring(about: str, names: Names) -> str:
    origins = dict.fromkeys(_LICENSES[package] for package in map(_package, names.origins) if package in _LICENSES)
    text = re.sub(r"[^\x20-\x7e\n]", "?", about).replace("\\", "/").replace('"""', "'''").strip()
    parts = [text]
    if origins:
        parts.append("Parts of this file are from\n" + "\n".join(f"- {line}" for line in origins))
    return '"""' + "\n\n".join(parts) + '\n"""\n'


def _package(module: str) -> str:
    return module.partition(".")[0]


def _imports(names: Names) -> str:
    """Import statements, the standard library's first, one for all that comes from a module."""
    plain_lines, grouped = [], dict[str, list[tuple[str, str]]]()
    for bound, found in names.imports.items():
        if found.name:
            grouped.setdefault(found.module, []).append((found.name, bound))
        else:
            plain_lines.append((found.module, found.line(bound)))
    for module, pairs in grouped.items():
        words = [name if name == bound else f"{name} as {bound}" for name, bound in sorted(pairs, key=_import_order)]
        plain_lines.append((module, f"from {module} import {', '.join(words)}"))
    blocks = []
    for standard in (True, False):
        chosen = [pair for pair in plain_lines if (_package(pair[0]) in sys.stdlib_module_names) == standard]
        lines = [line for _, line in sorted(chosen, key=lambda pair: (pair[1].startswith("from"), pair[0]))]
        blocks += ["\n".join(lines) + "\n"] if lines else []
    return "\n".join(blocks)


def _import_order(pair: tuple[str, str]) -> tuple[int, str]:
    """Constants, classes, functions, as is usual."""
    name = pair[0]
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def _ties(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Places that hold the same module or parameter as an earlier one: (place, earlier place)."""
    seen: dict[int, str] = {}
    tied: list[str] = []
    for path, module in network.named_modules(remove_duplicate=False):
        if any(path.startswith(f"{place}.") for place in tied):
            continue
        if id(module) in seen:
            tied.append(path)
            yield _place(network, path), _place(network, seen[id(module)])
            continue
        seen[id(module)] = path
        for name, parameter in module._parameters.items():
            place = f"{path}.{name}" if path else name
            if parameter is not None and id(parameter) in seen:
                yield _place(network, place), _place(network, seen[id(parameter)])
            elif parameter is not None:
                seen[id(parameter)] = place


def _place(network: nn.Module, path: str) -> str:
    """``self.blocks[0].weight`` for ``blocks.0.weight``."""
    result, module = "self", network
    for word in path.split("."):
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and word.isdecimal():
            result += f"[{list(module._modules).index(word)}]"
        elif is_plain_name(word):
            result += f".{word}"
        else:
            result = f"{result}.get_submodule({word!a})"
        module = getattr(module, word, module)
    return result


def _frozen(module: nn.Module, path: str) -> Iterator[str]:
    """The outermost layers and containers all of whose parameters are at rest; single parameters where others beside them learn."""
    own = list(module.parameters())
    if not own or all(parameter.requires_grad for parameter in own):
        return
    if path and not any(parameter.requires_grad for parameter in own):
        yield path
        return
    for name, child in module.named_children():
        yield from _frozen(child, f"{path}.{name}" if path else name)
    if is_torch_layer(type(module)):  # parameters of other modules are written with what they do
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.requires_grad:
                yield f"{path}.{name}" if path else name


def _with_endings(source: str, endings: list[str]) -> str:
    """Adds statements at the end of the network's constructor."""
    lines = source.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("    def __init__"))
    behind = (i for i in range(start + 1, len(lines)) if lines[i].startswith(("    def ", "    async def ", "    @")))
    end = next(behind, len(lines))
    while not lines[end - 1].strip():
        end -= 1
    return "\n".join([*lines[:end], *[f"        {ending}" for ending in endings], *lines[end:]])
