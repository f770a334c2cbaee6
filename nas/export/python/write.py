"""The whole file: docstring, imports, classes, and the function that loads the weights."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

from torch import nn
from torchvision.ops import stochastic_depth

from nas.export import plain
from nas.export.manifest import WEIGHTS
from nas.export.python.classes import NETWORK, class_sources
from nas.export.python.code import is_identifier
from nas.export.python.layers import is_torch_layer
from nas.export.python.names import Names
from nas.supernet.mixed_op import mixed_sum
from nas.supernet.sampling import checkpoint

_REPLACEMENTS = {mixed_sum: plain.sum_outputs, checkpoint: plain.checkpoint, stochastic_depth: plain.stochastic_depth}

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
    """A Python file that builds a plain network without this framework; a ValueError names a module that cannot be written.

    The file has a class ``Network``, whose state dict has the same keys, and a function ``load`` that reads the weights from the file
    beside it and compares their digest unless `weights_sha256` is empty. `about` is the docstring. No text from outside becomes code: names
    are checked, and values go through ``repr``.
    """
    names = Names(_REPLACEMENTS, (NETWORK, "load", "WEIGHTS", "WEIGHTS_SHA256"))
    endings = [f"{place} = {earlier}" for place, earlier in _ties(network)]
    endings += [f"{_place(network, path)}.requires_grad_(False)" for path in _frozen(network, "")]
    classes = class_sources(network, names, endings)
    definitions = "\n\n".join(text.strip("\n") + "\n" for text in [*names.definitions, *classes])
    weights = f'WEIGHTS = Path(__file__).with_name("{WEIGHTS}")\nWEIGHTS_SHA256 = "{weights_sha256}"\n'
    code = weights + "\n\n" + definitions + "\n" + _LOAD
    return "\n".join([_docstring(about, names), "from __future__ import annotations\n", _imports(names, code), code])


def _docstring(about: str, names: Names) -> str:
    licenses = dict.fromkeys(_LICENSES[package] for package in names.origins if package in _LICENSES)
    text = re.sub(r"[^\x20-\x7e\n]", "?", about).replace("\\", "/").replace('"""', "'''").strip()
    if licenses:
        text += "\n\nParts of this file are from\n" + "\n".join(f"- {line}" for line in licenses)
    return f'"""{text}\n"""\n'


def _imports(names: Names, code: str) -> str:
    """Import statements for the names that the code uses, the standard library first, one for each module."""
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    modules = dict[tuple[bool, str], list[tuple[int, str, str]]]()
    for bound, (module, name) in names.imports.items():
        if bound in used:
            imported = name or module
            part = imported if imported == bound else f"{imported} as {bound}"
            # constants, classes, functions
            order = 0 if imported.isupper() and len(imported) > 1 else 1 if imported[0].isupper() else 2
            modules.setdefault((bool(name), module), []).append((order, imported, part))
    blocks: tuple[list[str], list[str]] = ([], [])
    for (has_parts, module), parts in sorted(modules.items()):
        words = ", ".join(part for _, _, part in sorted(parts))
        line = f"from {module} import {words}" if has_parts else f"import {words}"
        blocks[module.partition(".")[0] not in sys.stdlib_module_names].append(line)
    return "\n".join("\n".join(block) + "\n" for block in blocks if block)


def _ties(network: nn.Module) -> Iterator[tuple[str, str]]:
    """(place, earlier place) of each module or parameter that is registered twice."""
    places, tied = dict[int, str](), list[str]()
    modules = network.named_modules(remove_duplicate=False)
    for path, item in [*modules, *network.named_parameters(remove_duplicate=False)]:
        first = places.setdefault(id(item), path)
        if first != path and not any(path.startswith(f"{place}.") for place in tied):
            tied.append(path)
            yield _place(network, path), _place(network, first)


def _place(network: nn.Module, path: str) -> str:
    """``self.blocks[0].weight`` for ``blocks.0.weight``."""
    result, module = "self", network
    for word in path.split("."):
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and word.isdecimal():
            result += f"[{list(module._modules).index(word)}]"
        elif is_identifier(word):
            result += f".{word}"
        else:
            result = f"{result}.get_submodule({word!a})"
        module = getattr(module, word, module)
    return result


def _frozen(module: nn.Module, path: str) -> Iterator[str]:
    """The outermost frozen layers and containers, and the frozen parameters of layers that are partly trained."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if path and trained and not any(trained):
        yield path
    elif not all(trained):
        for name, child in module.named_children():
            yield from _frozen(child, f"{path}.{name}".lstrip("."))
        if is_torch_layer(type(module)):  # the classes of other modules freeze their own parameters
            yield from (name for name, p in module.named_parameters(path, recurse=False) if not p.requires_grad)
