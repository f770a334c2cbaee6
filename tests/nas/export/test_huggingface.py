"""Smaller models of transformers as folders that transformers loads without this framework."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas
from nas.export.huggingface import find_tokenizer, save_pretrained
from nas.export.verify import complaints, verify
from nas.io.errors import UsageError
from nas.supernet.structure import active_choices

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers")
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 48,
    "vocab_size": 64,
    "use_cache": True,
}
GENERATE = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
FRESH = """
import sys, torch, transformers
from safetensors.torch import load_file, save_file
folder, auto = sys.argv[1:]
model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
assert not model.training and "nas" not in sys.modules
new = type(model)(model.config)  # to train from scratch: same sizes, ties and initialization
assert {k: v.shape for k, v in new.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
assert new.lm_head.weight is new.model.embed_tokens.weight
tensors = [p for p in new.parameters() if p.dim() > 1]
assert all(0.5 < p.std() / model.config.initializer_range < 2 for p in tensors), "drawn as the stock class draws them"
inputs = load_file("inputs.safetensors")
found = {"logits": model(inputs["ids"]).logits}
for name, options in {
    "cached": {"use_cache": True}, "recomputed": {"use_cache": False}, "default": {}, "static": {"cache_implementation": "static"}
}.items():
    found[name] = model.generate(inputs["ids"], attention_mask=inputs["mask"], %s, **options)
save_file({key: tensor.detach().contiguous() for key, tensor in found.items()}, "found.safetensors")
""" % ", ".join(f"{key}={value}" for key, value in GENERATE.items())  # noqa: UP031


def derived(model, changes, inputs=None, **example):
    """The model in eval mode with random weights, at full size but for `changes`; widths of attention count groups of heads."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    inputs = torch.randint(1, 64, (2, 7)) if inputs is None else inputs
    supernet = nas.Supernet(nas.convert(model, (inputs,), example_kwargs=example, verbose=False))
    largest = {name: labels[-1] for name, labels in supernet.choices.items()}
    assert changes.keys() <= largest.keys()
    return supernet.derive(active_choices(supernet.network, {**largest, **changes})).eval()


def llama(changes, **options):
    from transformers import LlamaConfig, LlamaForCausalLM

    return derived(LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=4, **options)), changes, use_cache=False)


BERT = """
import torch
from transformers import BertConfig, BertForSequenceClassification


def parent():
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3)
    config.initializer_range = 0.2
    return BertForSequenceClassification(config)


def build():
    return BertForSequenceClassification.from_pretrained("parent")


def example():
    return {"input_ids": torch.randint(1, 32, (2, 8))}


def data():
    x = torch.randint(1, 32, (440, 8))
    return (x[:400], x[:400, 0] % 3), (x[400:], x[400:, 0] % 3)
"""
UNEVEN = {
    "model.embed_tokens": "24",
    "model.layers.0": "drop",
    "model.layers.1.self_attn.q_proj": "1",
    "model.layers.2.self_attn.q_proj": "3",
    "model.layers.1.mlp.gate_proj": "16",
    "model.layers.3.mlp.gate_proj": "40",
}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A llama with uneven cuts and tied embeddings, its export folder, and the report."""
    small, out = llama(UNEVEN, tie_word_embeddings=True), tmp_path_factory.mktemp("uneven") / "out"
    return small, out, nas.export_network(small, torch.randint(1, 64, (2, 7)), out, formats=("huggingface",))


@pytest.fixture
def prompt():
    """Tokens, and a mask with padding on the left, where a wrong length of the cache shows."""
    torch.manual_seed(1)
    ids = torch.randint(1, 64, (2, 7))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    return ids, mask


@pytest.mark.integrations
@needs_transformers
def test_a_fresh_interpreter_computes_and_generates_the_same(prompt, uneven, tmp_path):
    from safetensors.torch import load_file, save_file

    (ids, mask), (small, out, report) = prompt, uneven
    tokens = [small.generate(ids, attention_mask=mask, **GENERATE, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*tokens) and len({tuple(row) for row in tokens[0].tolist()}) == 2
    assert report["huggingface"]["ok"] and report["huggingface"]["max_abs_diff"] <= 1e-5
    save_file({"ids": ids, "mask": mask}, tmp_path / "inputs.safetensors")
    command = [sys.executable, "-I", "-c", FRESH, str(out / "huggingface"), "AutoModelForCausalLM"]
    own = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    torch.testing.assert_close(found.pop("logits"), small(ids).logits, atol=1e-5, rtol=0)
    assert set(found) == {"cached", "recomputed", "default", "static"}
    for name, generated in found.items():
        assert torch.equal(generated, tokens[0]), name
    config = json.loads((out / "huggingface/config.json").read_text())
    assert config["num_hidden_layers"] == 3 and config["use_cache"] and config["tie_word_embeddings"]
    assert config["small"]["layers"]["model.layers.0.self_attn.q_proj"]["weight"] == [8, 24]
    assert config["small"]["layers"]["model.layers.1.self_attn.k_proj"]["weight"] == [12, 24]
    assert str(out.parent) not in json.dumps(config)


@pytest.mark.integrations
@needs_transformers
def test_a_classifier_is_proven_beside_the_other_formats(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(**{**SIZES, "num_hidden_layers": 2}, num_labels=3))
    changes = {"bert.encoder.layer.0.attention.self.query": "2", "bert.encoder.layer.1.intermediate.dense": "24"}
    formats = ("safetensors", "huggingface")
    ids = torch.randint(1, 64, (2, 7))
    report = nas.export_network(derived(model, changes), ids, tmp_path / "out", formats=formats)
    assert report["huggingface"]["ok"] and report["huggingface"]["max_abs_diff"] <= 1e-5
    config = json.loads((tmp_path / "out/huggingface/config.json").read_text())
    assert config["auto_map"] == {
        "AutoModelForSequenceClassification": "modeling_small.SmallBertForSequenceClassification"
    }
    assert "AutoModelForSequenceClassification.from_pretrained" in (tmp_path / "out/README.md").read_text()
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "gumbel-nas", (
        "each format has its own"
    )


CAUSAL: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "scaled by its number": (
        "GPT2",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32, "scale_attn_by_inverse_layer_idx": True},
        {"transformer.h.1": "drop", "transformer.h.2.attn.c_attn": "3"},
    ),
    "layers of two types": (
        "Gemma3",
        {
            **SIZES,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        },
        {"model.layers.1": "drop", "model.layers.2.mlp.gate_proj": "16"},
    ),
    "tensors of other names in files": ("GPTNeoX", SIZES, {"gpt_neox.layers.0.mlp.dense_h_to_4h": "24"}),
}


@pytest.mark.integrations
@needs_transformers
@pytest.mark.parametrize("name", CAUSAL)
def test_other_models_generate_the_same(name, prompt, tmp_path):
    import transformers

    (kind, sizes, changes), (ids, mask) = CAUSAL[name], prompt
    config = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
    kind = {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
    model = getattr(transformers, kind)(config(**{"vocab_size": 64, **sizes}, bos_token_id=None, eos_token_id=None))
    small = derived(model, changes, use_cache=False)
    save_pretrained(small, tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(loaded).__name__ == f"Small{kind}"
    torch.testing.assert_close(loaded(ids).logits, small(ids).logits, atol=1e-5, rtol=0)
    expected = small.generate(ids, attention_mask=mask, **GENERATE, use_cache=False)
    assert torch.equal(small.generate(ids, attention_mask=mask, **GENERATE, use_cache=True), expected)
    for cached in (True, False):
        assert torch.equal(loaded.generate(ids, attention_mask=mask, **GENERATE, use_cache=cached), expected)


@pytest.mark.integrations
@needs_transformers
def test_inner_blocks_and_models_without_an_auto_class(tmp_path):
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = transformers.T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    small = derived(transformers.T5EncoderModel(config), {"encoder.block.0.layer.1": "drop"})
    save_pretrained(small, tmp_path / "t5")
    loaded = transformers.AutoModelForTextEncoding.from_pretrained(tmp_path / "t5", trust_remote_code=True)
    ids = torch.randint(1, 64, (2, 7))
    assert torch.equal(loaded(ids)[0], small(ids)[0])
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
    config = transformers.WhisperConfig(**sizes, num_mel_bins=16, max_source_positions=20)
    x = torch.randn(2, 16, 40)
    small = derived(WhisperEncoder(config), {"layers.1.fc1": "24"}, inputs=x)
    save_pretrained(small, tmp_path / "whisper")
    loaded = transformers.AutoModel.from_pretrained(tmp_path / "whisper", trust_remote_code=True)
    assert torch.equal(loaded(x)[0], small(x)[0])


@pytest.mark.integrations
@needs_transformers
def test_dropped_blocks_alone_need_no_code_of_ours(prompt, tmp_path):
    from transformers import LlamaForCausalLM

    small = llama({"model.layers.1": "drop"})
    save_pretrained(small, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["config.json", "generation_config.json", "model.safetensors"]
    stock = LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(stock(prompt[0]).logits, small(prompt[0]).logits) and len(stock.model.layers) == 3


@pytest.mark.integrations
@needs_transformers
def test_what_is_no_size_is_refused(tmp_path):
    small = llama({})
    small.model.layers[0].mlp = nn.Identity()
    with pytest.raises(ValueError, match=r"^model\.layers\.0\.mlp[^\n]* is not in both the network and Llama[^\n]*$"):
        save_pretrained(small, tmp_path / "out")
    small = llama({})
    small.model.layers[0].mlp.down_proj.bias = nn.Parameter(torch.zeros(32))
    with pytest.raises(ValueError, match=r"^model\.layers\.0\.mlp\.down_proj\.bias is not in both"):
        save_pretrained(small, tmp_path / "out")
    small = llama({})
    small.model.layers[1].mlp.act_fn = nn.ReLU()
    with pytest.raises(ValueError, match=r"^model\.layers\.1\.mlp\.act_fn is a ReLU, in the stock class a SiLU"):
        save_pretrained(small, tmp_path / "out")
    for module in (__name__, type(small).__module__):
        small.__class__ = type("Own", (type(small),), {"__module__": module})
        with pytest.raises(ValueError, match=f"^Own of {module} is not a class of transformers itself"):
            save_pretrained(small, tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.integrations
@needs_transformers
def test_nothing_is_left_of_a_folder_that_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("broken")

    monkeypatch.setattr("nas.export.huggingface._save_tokenizer", fail)  # the weights are written then
    ids, formats = torch.randint(1, 64, (2, 7)), ("huggingface", "safetensors")
    report = nas.export_network(llama(UNEVEN), ids, tmp_path / "out", formats=formats)
    assert report["huggingface"] == {"ok": False, "detail": "refused: broken"} and report["safetensors"]["ok"]
    assert not (tmp_path / "out" / "huggingface").exists()


@pytest.mark.integrations
@needs_transformers
def test_the_files_of_a_tokenizer_go_along(tmp_path, monkeypatch):
    import transformers
    from tokenizers import Tokenizer, models

    small = llama(UNEVEN)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    own = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a")
    own.save_pretrained(tmp_path / "parent")
    small.name_or_path = str(tmp_path / "parent")  # as from_pretrained sets it
    save_pretrained(small, tmp_path / "of_parent")
    save_pretrained(small, tmp_path / "given", find_tokenizer(own))
    save_pretrained(small, tmp_path / "folder", find_tokenizer(tmp_path / "parent"))
    for name in ("of_parent", "given", "folder"):
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / name)
        assert [tokenizer(text)["input_ids"] for text in ("b", "a", "c")] == [[1], [0], [0]]
    small.name_or_path = ""  # made here: the working directory is not its folder
    monkeypatch.chdir(tmp_path / "parent")
    save_pretrained(small, tmp_path / "none")
    assert not list((tmp_path / "none").glob("tokenizer*"))


@pytest.mark.integrations
@needs_transformers
def test_a_compression_writes_the_folder_with_the_files_of_the_parent(run_cli, tmp_path, monkeypatch):
    import transformers

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_bert.py").write_text(BERT)
    torch.manual_seed(0)
    importlib.import_module("own_bert").parent().save_pretrained("parent")
    Path("parent/vocab.txt").write_text("a\n")
    words = "--limit params=0.8 --task nas.tasks.Classification --model.task.num_classes 3 --model.task.output logits".split()
    words += "--trainer.max_epochs 1 --epochs 1 --trainer.accelerator cpu --trainer.num_threads 1".split()
    names = ("--model", "own_bert:build", "--data", "own_bert:data", "--example", "own_bert:example")
    answer = run_cli("compress", *names, *words, "--out", "run")
    assert answer.code == 0, answer.err
    folder = Path("run/export/huggingface")
    assert (folder / "vocab.txt").read_text() == "a\n"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    ids = torch.randint(1, 32, (3, 8))
    torch.testing.assert_close(
        model(ids).logits, nas.load("run", trust_modules=["own_bert"])(ids).logits, atol=1e-5, rtol=0
    )
    assert str(tmp_path) not in (folder / "config.json").read_text()


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UsageError, match="tokenizer: no file of a tokenizer in nowhere"):
        nas.export_network(nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "out", tokenizer="nowhere")
    with pytest.raises(UsageError, match="tokenizer: neither a tokenizer of transformers nor a folder, but int"):
        nas.export_network(nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "out", tokenizer=1)
    (tmp_path / "vocab.txt").touch()
    with pytest.raises(UsageError, match="tokenizer: only the format huggingface takes one"):
        nas.export_network(nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "out", tokenizer=tmp_path)
    assert os.listdir(tmp_path) == ["vocab.txt"]


def test_the_command_takes_a_tokenizer(run_cli, finished):
    words = ("export", "--run", finished, "--tokenizer", "nowhere")
    answer = run_cli(*words)
    assert answer.code == 2 and "tokenizer: no file of a tokenizer in nowhere" in answer.complaint
    Path("vocab.txt").touch()
    answer = run_cli(*words[:-1], ".", "--formats", "huggingface,genotype")
    assert answer.code == 0 and "huggingface: refused: " in answer.out and "is no model of transformers" in answer.out


def test_another_network_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.export.formats.find_spec", lambda name: object())
    with pytest.raises(ValueError, match=r"^huggingface: Linear is no model of transformers \(PreTrainedModel\)$"):
        nas.export_network(nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "out", formats=("huggingface",))
    assert os.listdir(tmp_path) == []
    report = nas.export_network(
        nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "out", formats=("huggingface", "safetensors")
    )
    assert not report["huggingface"]["ok"] and report["safetensors"]["ok"]
    assert not (tmp_path / "out" / "huggingface").exists()


def test_without_transformers_the_command_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.export.formats.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"huggingface needs transformers: pip install 'gumbel-nas\[huggingface\]'"):
        nas.export_network(nn.Linear(2, 2), torch.zeros(2, 2), tmp_path / "out", formats=("huggingface",))


@pytest.mark.integrations
@needs_transformers
def test_damage_in_the_folder_is_named(uneven, tmp_path):
    shutil.copytree(uneven[1], tmp_path / "out")
    path = tmp_path / "out/huggingface/modeling_small.py"
    path.write_text(path.read_text() + "\n")
    (line,) = complaints(verify(tmp_path / "out"))
    assert line == "files: huggingface/modeling_small.py: not as it was written (SHA-256 differs)"
    path.parent.rename(tmp_path / "elsewhere")
    Path(tmp_path / "out/huggingface").symlink_to(tmp_path / "elsewhere")
    (line,) = complaints(verify(tmp_path / "out"))
    assert "huggingface/config.json: a symbolic link" in line
