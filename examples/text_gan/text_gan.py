"""Words from a generator and a discriminator: an induced collapse, with and without re-heating of tau.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.regularizers import entropy
from nas.relaxations import GumbelSoftmax
from nas.tau import DiversityReheating, Exponential, Reheating, TauSchedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from letters import Writer, drawn
from studies import options_of, spread

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
END = len(LETTERS)
NUM_LETTERS, LENGTH = END + 1, 8
HIDDEN, CODE, BATCH, NUM_STEPS = 64, 16, 64, 600
NUM_JUDGED = 1000
LURE = "LETTER"
COLLAPSE = (0.4, 0.6)
"""Start and end of the collapse, as shares of the training: the generator is rewarded for one word alone."""
MOMENTS = (COLLAPSE[0], COLLAPSE[1], COLLAPSE[1] + 0.05, 0.7, 0.8, 0.9, 1.0)
"""Shares of the training at which words are judged: before and after the collapse, and every later tenth."""
EVERY = 10
HEAT = {"entropy": 5.0, "diversity": 3.0}
"""Factors of tau."""


@cache
def words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and held-out words."""
    names = (unicodedata.name(chr(code), "") for code in range(sys.maxunicode + 1))
    found = sorted({word for name in names for word in re.findall(r"[A-Z]+", name) if 4 <= len(word) <= LENGTH - 1})
    order = torch.randperm(len(found), generator=keyed_generator(0, "words")).tolist()
    num_held = len(found) // 10
    return tuple(found[i] for i in sorted(order[num_held:])), tuple(found[i] for i in sorted(order[:num_held]))


def encoded(texts: Sequence[str]) -> Tensor:
    """Numbers of the letters, padded with ends: (N, length)."""
    return torch.tensor([[LETTERS.index(c) for c in text] + [END] * (LENGTH - len(text)) for text in texts])


def decoded(letters: Tensor) -> list[str]:
    """The words before the first end: numbers (N, length) to texts."""
    return ["".join(LETTERS[i] for i in row[: row.index(END) if END in row else LENGTH]) for row in letters.tolist()]


class TrigramModel:
    """Probabilities of a character after two others, interpolated with lower orders (Jelinek and Mercer 1980).

    Args:
        texts: Training words.
        shares: Weights of 3-grams, 2-grams and 1-grams; one is added to the count of each 1-gram.
    """

    def __init__(self, texts: Sequence[str], shares: tuple[float, float, float] = (0.7, 0.2, 0.1)) -> None:
        size = NUM_LETTERS + 1  # one more for the place before a word
        counts = torch.zeros(size, size, NUM_LETTERS)
        for context, following in self._grams(texts):
            counts[context[0], context[1], following] += 1
        orders = [counts, counts.sum(0, keepdim=True), counts.sum((0, 1), keepdim=True) + 1]
        seen = [order / order.sum(-1, keepdim=True).clamp_min(1) for order in orders]
        # contexts that never occurred leave their weight to the 1-grams
        left = 1 - sum(
            share * (part.sum(-1, keepdim=True) > 0) for share, part in zip(shares[:2], seen[:2], strict=True)
        )
        self.chances = shares[0] * seen[0] + shares[1] * seen[1] + left * seen[2]

    def _grams(self, texts: Sequence[str]) -> Iterator[tuple[tuple[int, int], int]]:
        for text in texts:
            context = (NUM_LETTERS, NUM_LETTERS)
            for letter in [*(LETTERS.index(c) for c in text), END][:LENGTH]:
                yield context, letter
                context = (context[1], letter)

    def surprise(self, texts: Sequence[str]) -> float:
        """The mean negative logarithm of a character's probability, nats."""
        grams = list(self._grams(texts))
        return -sum(float(self.chances[a, b, c].log()) for (a, b), c in grams) / len(grams)


def different(texts: Sequence[str], num: int | None = None) -> float:
    """Share of different words, or of different n-grams among all."""
    parts = list(texts) if num is None else [t[i : i + num] for t in texts for i in range(len(t) - num + 1)]
    return len(set(parts)) / max(1, len(parts))


class Discriminator(nn.Module):
    """A network whose output is above 0 where letters (B, length, characters) look like a word."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.GRU(NUM_LETTERS, HIDDEN, batch_first=True, bidirectional=True)
        self.judge = nn.Sequential(nn.Linear(2 * HIDDEN, HIDDEN), nn.LeakyReLU(0.2), nn.Linear(HIDDEN, 1))

    def forward(self, letters: Tensor) -> Tensor:
        states, _ = self.read(letters)
        judgement: Tensor = self.judge(states.mean(1)).squeeze(1)
        return judgement


class Quality(NamedTuple):
    """The quality of written words.

    Attributes:
        words: Share of different words.
        trigrams: Share of different 3-grams.
        surprise: Nats per character under the 3-gram model.
    """

    words: float
    trigrams: float
    surprise: float


def train(tau: TauSchedule, seed: int) -> dict[float, Quality]:
    """Trains through a collapse; the quality at each moment. The schedule observes the entropy, and how many words are different."""
    torch.manual_seed(derive_seed(seed, "weights"))
    supernet, judge = nas.Supernet(Writer(NUM_LETTERS, LENGTH, CODE, HIDDEN, reads_code=False)), Discriminator()
    relaxation = GumbelSoftmax(hard=True)
    writing = torch.optim.Adam(supernet.weight_parameters(), lr=2e-3, betas=(0.5, 0.999))
    judging = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.5, 0.999))
    data = F.one_hot(encoded(words()[0]), NUM_LETTERS).float()
    lure = encoded([LURE]).expand(BATCH, -1)
    model, found, written = TrigramModel(words()[0]), {}, list[str]()
    for step in range(NUM_STEPS):
        generator = keyed_generator(seed, "batch", step)
        code = torch.randn(BATCH, CODE, generator=generator)
        true = data[torch.randint(len(data), (BATCH,), generator=generator)]
        sample = supernet.sample(relaxation, tau(step / NUM_STEPS), generator=keyed_generator(seed, "noise", step))
        letters, logits = supernet(code, nas.sample, op_weights=sample)
        lured = COLLAPSE[0] <= step / NUM_STEPS < COLLAPSE[1]
        loss = F.cross_entropy(logits.flatten(0, 1), lure.flatten()) if lured else F.softplus(-judge(letters)).mean()
        writing.zero_grad()
        loss.backward()
        writing.step()
        if not lured:
            judging.zero_grad()
            (F.softplus(judge(letters.detach())).mean() + F.softplus(-judge(true)).mean()).backward()
            judging.step()
        written += decoded(letters.argmax(-1))
        if step % EVERY == 0:
            tau.observe(float(entropy(torch.softmax(logits.detach(), -1)).mean()), step / NUM_STEPS)
            tau.observe_diversity(different(written), step / NUM_STEPS)
            written.clear()
        for share in MOMENTS:
            if step == round(share * NUM_STEPS) - 1:
                found[share] = judged(supernet.network, model, seed)
    return found


@torch.no_grad()
def judged(network: nn.Module, model: TrigramModel, seed: int) -> Quality:
    """Evaluates words that a generator writes."""
    generator = keyed_generator(seed, "judged")
    code = torch.randn(NUM_JUDGED, CODE, generator=generator)
    letters, _ = network(code, partial(drawn, generator=generator))
    return quality(decoded(letters.argmax(-1)), model)


def quality(texts: Sequence[str], model: TrigramModel) -> Quality:
    return Quality(different(texts), different(texts, 3), model.surprise(texts))


def schedule(watched: str | None) -> TauSchedule:
    """Tau over the training, re-heated by the ``entropy`` of characters, by the ``diversity`` of words, or not at all."""
    annealed = Exponential(1.0, 0.1)
    if watched == "entropy":
        return Reheating(annealed, min_entropy=0.3, factor=HEAT[watched], duration=0.2, until=0.9)
    if watched == "diversity":
        return DiversityReheating(annealed, min_share=0.5, factor=HEAT[watched], duration=0.1, until=0.9)
    return annealed


def main() -> None:
    seeds = options_of(__doc__).seeds
    cells = []
    for name, watched in (
        ("as it is", None),
        ("re-heated by entropy", "entropy"),
        ("re-heated by diversity", "diversity"),
    ):
        runs = [train(schedule(watched), seed) for seed in seeds]
        for share in MOMENTS:
            columns = zip(*(run[share] for run in runs), strict=True)
            cells.append((name, f"{share:g}", *(spread(column) for column in columns)))
    train_words, held = words()
    reference = quality(held, TrigramModel(train_words))
    cells.append(("held-out words", "", *(f"{value:.3f}" for value in reference)))
    head = ("tau", "share of the training", "different words", "different 3-grams", "surprise (nats a character)")
    print(markdown_table(head, cells))


if __name__ == "__main__":
    main()
