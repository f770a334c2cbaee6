"""Models of torchvision, timm and transformers: converted, cut, searched and exported; groups as Torch-Pruning finds them."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import nas
from nas.conversion.convert import converted
from nas.costs.functions import count_macs

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def table(load_file):
    return load_file("scripts/convert_table.py")


@pytest.mark.parametrize(
    "name",
    ["regnet_x_400mf", "mobilenetv4_conv_small", "convnextv2_atto", "bert", "gpt2", "llama", "vit", "t5", "whisper"],
)
def test_models_of_other_libraries_become_spaces(table, name):
    row = table.one(name, 120)
    assert table.is_converted(row), row
    assert row["costs"] and not row["error"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "regnet_x_400mf", "squeezenet1_1"])
def test_layers_of_a_group_are_those_of_torch_pruning(table, name):
    torch_pruning = pytest.importorskip("torch_pruning")
    model, args = table.build(name)
    graph = torch_pruning.DependencyGraph().build_dependency(model.eval(), example_inputs=args)
    names = {module: path for path, module in model.named_modules()}
    theirs = set()
    for group in graph.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)):
        made = [entry.dep.target.module for entry in group if graph.is_out_channel_pruning_fn(entry.dep.handler)]
        made = [layer for layer in made if type(layer) in (nn.Conv2d, nn.Linear) and getattr(layer, "groups", 1) == 1]
        theirs.add(frozenset(names[layer] for layer in made))
    found = converted(model, args)
    ours = {frozenset(path for path, _ in group.producers) for group in found.groups}
    kept = {path for path, reason in found.whole.items() if reason == "it makes an output"}
    assert len(kept) == 1
    assert {group - kept for group in theirs} - {frozenset()} == ours


@pytest.mark.parametrize("name", ["vit", "convnextv2_atto", "llama"])
def test_a_search_within_a_limit_and_its_export(table, name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, args = table.build(name)
    limit = count_macs(model.eval(), args) / 2
    network = nas.convert(model, args, verbose=False)
    search = nas.Searcher(network, num_steps=20, limits={"macs": limit})
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    for _ in range(20):
        search.arch_step(lambda: sum(leaf.square().mean() for leaf in outputs(network(*args))))
        with search.sampled():
            optimizer.zero_grad()
            sum(leaf.square().mean() for leaf in outputs(network(*args))).backward()
        optimizer.step()
    small = search.derive().eval()
    assert count_macs(small, args) <= limit
    program = torch.export.export(small, args, strict=False)
    torch.onnx.export(program, (), tmp_path / "small.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx")
    fed = {entry.name: arg.numpy() for entry, arg in zip(session.get_inputs(), args, strict=True)}
    (expected,) = outputs(small(*args))
    got = torch.tensor(session.run(None, fed)[0])
    torch.testing.assert_close(got, expected.detach(), rtol=1e-4, atol=1e-5 * float(expected.abs().max()))  # float32


def outputs(output):
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
