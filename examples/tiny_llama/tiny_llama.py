"""A small Llama with grouped queries made smaller: search, fine-tuning by its parent, a folder for ``from_pretrained``.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import nas
from nas.costs import num_params
from nas.io.markdown import markdown_table

LETTERS = "abcdefgh"
LENGTH = 8
BATCH = 64
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
HEADS: dict[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 4}


def tokenizer() -> Any:
    """A token for each letter, and ``>``."""
    words = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(f"{LETTERS}>")}, unk_token=">"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token=">")


def texts(number: int, generator: torch.Generator) -> Tensor:
    """Texts of tokens: random letters, ``>``, and the same letters sorted; shape (number, 2 LENGTH + 1)."""
    letters = torch.randint(len(LETTERS), (number, LENGTH), generator=generator)
    return torch.cat([letters, torch.full((number, 1), len(LETTERS)), letters.sort(1).values], 1)


def loss_of(network: nn.Module, tokens: Tensor, parent: nn.Module | None = None) -> Tensor:
    """Cross-entropy of the sorted letters; with a parent, half of it, and half the divergence from the parent's distribution."""
    logits = network(tokens[:, :-1]).logits[:, LENGTH:].flatten(0, 1)
    loss = F.cross_entropy(logits, tokens[:, LENGTH + 1 :].flatten())
    if parent is None:
        return loss
    with torch.no_grad():
        taught = parent(tokens[:, :-1]).logits[:, LENGTH:].flatten(0, 1).log_softmax(-1)
    return (loss + F.kl_div(logits.log_softmax(-1), taught, reduction="batchmean", log_target=True)) / 2


def train(network: nn.Module, num_steps: int, seed: int, parent: nn.Module | None = None) -> nn.Module:
    """Trains by AdamW with one cycle of the learning rate; the network is in eval mode afterwards."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss_of(network, texts(BATCH, generator), parent).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def trained(num_steps: int) -> Any:
    """A Llama that sorts letters."""
    torch.manual_seed(0)
    tokens: dict[str, Any] = {
        "vocab_size": len(LETTERS) + 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": len(LETTERS),
    }
    config = LlamaConfig(**tokens, **SIZES, **HEADS, use_cache=False)  # the exported one has a cache again
    return train(LlamaForCausalLM(config), num_steps, seed=0)


def smaller(parent: nn.Module, share: float, num_steps: int) -> nn.Module:
    """A network with at most this share of the parent's parameters, found by a search and taught by the parent."""
    generator = torch.Generator().manual_seed(1)
    example = texts(2, generator)[:, :-1]
    network = nas.convert(parent, (example,), multiple=4, verbose=False).train()
    search = nas.Searcher(
        network, num_steps=num_steps, limits={"params": share * num_params(parent)}, inputs=(example[:1],)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(num_steps):
        batch, other = texts(BATCH, generator), texts(BATCH, generator)
        search.arch_step(lambda batch=batch: loss_of(network, batch, parent))
        with search.sampled():
            optimizer.zero_grad()
            loss_of(network, other, parent).backward()
        optimizer.step()
    return train(search.derive(), num_steps, seed=2, parent=parent)


@torch.no_grad()
def accuracy(network: Any, number: int = 500) -> float:
    """Share of texts that the network sorts without a mistake, by greedy generation with a cache."""
    tokens = texts(number, torch.Generator().manual_seed(3))
    prompts = tokens[:, : LENGTH + 1]
    written = network.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=LENGTH,
        do_sample=False,
        use_cache=True,
    )
    return float((written == tokens).all(1).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=300, help="steps of each training and of the search")
    parser.add_argument("--share", type=float, default=0.5, help="share of the parent's parameters")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny_llama"), help="new folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parent = trained(options.num_steps)
    small = smaller(parent, options.share, options.num_steps)
    example = texts(2, torch.Generator().manual_seed(4))[:, :-1]
    nas.export_network(small, example, options.out, formats=["huggingface"], tokenizer=tokenizer())

    folder = options.out / "huggingface"  # from here on without gumbel-nas
    served, words = (
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True),
        AutoTokenizer.from_pretrained(folder),
    )
    written = served.generate(**words("hgfedcba>", return_tensors="pt"), max_new_tokens=LENGTH, do_sample=False)
    rows = [
        (name, f"{num_params(network):,}", f"{accuracy(network):.3f}")
        for name, network in (("parent", parent), ("found", served))
    ]
    print(markdown_table(("network", "parameters", "texts sorted"), rows))
    print(words.decode(written[0]))


if __name__ == "__main__":
    main()
