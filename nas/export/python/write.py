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
from nas.export.python.names import Import, Names
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
    """A Python file that builds a network without this framework.

    It has a class ``Network``, whose state dict has the same keys, and a function ``load`` that reads the weights from the file beside it.
    Layers of torch are built by their constructors with the arguments that they have; other modules get a class with their own forward
    methods, and the file has the functions that these methods call. Branches that the network never takes are left out, and modules that
    differ in plain values only share a class. Nothing in the file is text from outside: names are checked, values go through ``repr``.

    Args:
        network: A plain network.
        about: For the docstring: the network and its origin.
        weights_sha256: Digest of the weights' file, which ``load`` checks unless the digest is empty.

    Raises:
        ValueError: A module cannot be written; the message names its place and the reason.
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
    modules = dict[tuple[str, bool], list[str]]()
    for bound, (module, name) in sorted(names.imports.items(), key=_import_order):
        if bound in used:
            imported = name or module
            words = imported if imported == bound else f"{imported} as {bound}"
            modules.setdefault((module, not name), []).append(words)
    blocks: tuple[list[str], list[str]] = ([], [])
    for (module, whole), parts in sorted(modules.items(), key=lambda item: (not item[0][1], item[0][0])):
        line = f"import {parts[0]}" if whole else f"from {module} import {', '.join(parts)}"
        blocks[module.partition(".")[0] not in sys.stdlib_module_names].append(line)
    return "\n".join("\n".join(block) + "\n" for block in blocks if block)


def _import_order(item: tuple[str, Import]) -> tuple[int, str]:
    """Constants, classes, functions, as is usual."""
    name = item[1][1] or item[1][0]
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


def _ties(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Places that have the same module or parameter as an earlier one: (place, earlier place)."""
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
    """The outermost frozen layers and containers, and single frozen parameters where others beside them are trained."""
    trained, prefix = [parameter.requires_grad for parameter in module.parameters()], f"{path}." if path else ""
    if path and trained and not any(trained):
        yield path
    elif not all(trained):
        for name, child in module.named_children():
            yield from _frozen(child, f"{prefix}{name}")
        if is_torch_layer(type(module)):  # the classes of other modules say it of their own parameters
            yield from (
                f"{prefix}{name}" for name, p in module._parameters.items() if p is not None and not p.requires_grad
            )
