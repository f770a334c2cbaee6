"""A sentence encoder a third smaller, with its parent as the teacher.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

import nas
from nas.costs import num_params
from nas.io.markdown import markdown_table

LENGTH = 32
"""Largest number of tokens of a sentence."""
BATCH = 16
NUM_HELD_OUT = 500
KEPT = ("model.pooler",)
"""What embeddings do not use is no place to save parameters."""


class Sentences(NamedTuple):
    """Tokens of sentences, padded.

    Attributes:
        ids: (N, LENGTH).
        mask: (N, LENGTH), 1 for tokens and 0 for padding.
    """

    ids: Tensor
    mask: Tensor

    def rows(self, which: Any) -> Sentences:
        """Some of the sentences."""
        return Sentences(self.ids[which], self.mask[which])


class Encoder(nn.Module):
    """A model of transformers that returns the states of all tokens alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """States of the tokens, (B, LENGTH, D)."""
        states: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def sentences_of(texts: Sequence[str]) -> list[str]:
    """The different sentences of 20 to 200 characters in texts, in alphabetical order."""
    found = {" ".join(part.split()) for text in texts for part in re.split(r"\n%\n|(?<=[.!?])\s+", text)}
    return sorted(sentence for sentence in found if 20 <= len(sentence) <= 200 and sentence[0].isalpha())


def embedding(states: Tensor, mask: Tensor) -> Tensor:
    """The embedding of each sentence, of length 1: the mean over its tokens; (B, D)."""
    weights = mask[..., None].to(states.dtype)
    return F.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def loss_of(states: Tensor, taught: Tensor, mask: Tensor) -> Tensor:
    """1 - cosine to the parent's states, as a mean over tokens, and 1 - cosine to the parent's embeddings, as a mean over sentences."""
    tokens = (1 - F.cosine_similarity(states, taught, dim=-1))[mask.bool()].mean()
    return tokens + 1 - (embedding(states, mask) * embedding(taught, mask)).sum(-1).mean()


def batches(sentences: Sentences, seed: int) -> Iterator[Sentences]:
    """An endless stream of random batches."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield sentences.rows(torch.randint(len(sentences.ids), (BATCH,), generator=generator))


def loss_by(network: nn.Module, parent: nn.Module) -> Callable[[Sentences], Tensor]:
    """The loss of a network on a batch, taught by the parent."""

    def loss(batch: Sentences) -> Tensor:
        with torch.no_grad():
            taught = parent(*batch)
        return loss_of(network(*batch), taught, batch.mask)

    return loss


def found_by_search(parent: nn.Module, train: Sentences, limit: float, num_steps: int) -> nn.Module:
    """The network that a search finds within a number of parameters; its weights are those of the search."""
    example = train.rows(slice(2))
    network = nas.convert(parent, tuple(example), skip=KEPT, verbose=False)
    search = nas.Searcher(network, num_steps=num_steps, limits={"params": limit}, inputs=tuple(train.rows(slice(1))))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loss, stream = loss_by(network, parent), batches(train, seed=1)
    for _ in range(num_steps):
        batch = next(stream)
        search.arch_step(lambda batch=batch: loss(batch))
        with search.sampled():
            optimizer.zero_grad()
            loss(next(stream)).backward()
        optimizer.step()
    return search.derive()


def by_magnitude(parent: nn.Module, train: Sentences, limit: float) -> nn.Module:
    """The network with the largest share of all heads and channels within the limit; those of the largest magnitude are kept."""
    shares = [number / 24 for number in range(24, 0, -1)]
    options: dict[str, Any] = {"width": shares, "multiple": 1, "depth": False, "skip": KEPT, "verbose": False}
    network = nas.convert(parent, tuple(train.rows(slice(2))), **options)
    supernet = nas.Supernet(network)
    for share in shares:
        of = {name: [int(label) for label in labels] for name, labels in supernet.choices.items()}
        small = supernet.derive({name: str(min(n, key=lambda m: abs(m - share * max(n)))) for name, n in of.items()})
        if num_params(small) <= limit:
            return small
    raise ValueError(f"no share of the channels has at most {limit:,.0f} parameters")


def taught(network: nn.Module, parent: nn.Module, train: Sentences, num_steps: int) -> nn.Module:
    """Trains a network to give the states of the parent, by AdamW with one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, total_steps=num_steps)
    loss, stream = loss_by(network, parent), batches(train, seed=2)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss(next(stream)).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def agreement(network: nn.Module, parent: nn.Module, sentences: Sentences) -> tuple[float, float]:
    """The mean cosine to the parent's embeddings, and Spearman's correlation of the similarities of all pairs."""
    own, other = (
        torch.cat([embedding(net.eval()(*part), part.mask) for part in map(Sentences, *map(_split, sentences))])
        for net in (network, parent)
    )
    i, j = torch.triu_indices(len(own), len(own), 1)
    ranks = spearmanr(*(((each @ each.T)[i, j]).numpy() for each in (own, other))).statistic
    return float((own * other).sum(-1).mean()), float(ranks)


def _split(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.split(64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="text files with sentences")
    parser.add_argument("--fewer", type=float, default=0.33, help="share of the encoder's parameters to leave out")
    parser.add_argument("--search-steps", type=int, default=150)
    parser.add_argument("--num-steps", type=int, default=600, help="steps of the training by the parent")
    parser.add_argument("--out", type=Path, default=Path("runs/sentence_encoder"), help="new folder")
    options = parser.parse_args()
    torch.manual_seed(0)
    tokenizer, model = AutoTokenizer.from_pretrained(options.model), AutoModel.from_pretrained(options.model)
    parent = Encoder(model).eval()
    lines = sentences_of([path.read_text(errors="replace") for path in options.texts])
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(0)).tolist()
    words = tokenizer(lines, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    sentences = Sentences(words["input_ids"], words["attention_mask"]).rows(order)
    held_out, train = sentences.rows(slice(NUM_HELD_OUT)), sentences.rows(slice(NUM_HELD_OUT, None))

    num_encoder = num_params(parent.get_submodule("model.encoder"))
    limit = num_params(parent) - options.fewer * num_encoder
    networks = {
        "found": found_by_search(parent, train, limit, options.search_steps),
        "by magnitude": by_magnitude(parent, train, limit),
    }
    rows = []
    for name, network in networks.items():
        for stage in ("before", "after"):
            if stage == "after":
                taught(network, parent, train, options.num_steps)
            cosine, ranks = agreement(network, parent, held_out)
            fewer = 1 - num_params(network.get_submodule("model.encoder")) / num_encoder
            rows.append((f"{name}, {stage} training", f"{fewer:.1%}", f"{cosine:.4f}", f"{ranks:.4f}"))
    print(markdown_table(("network", "fewer parameters of the encoder", "mean cosine", "Spearman of pairs"), rows))
    print(f"{len(train.ids):,} sentences for training, {len(held_out.ids)} held out")
    found: Any = networks["found"]
    nas.export_network(
        found.model, tuple(held_out.rows(slice(2))), options.out, formats=["huggingface"], tokenizer=tokenizer
    )


if __name__ == "__main__":
    main()
