"""A variational autoencoder of DNA that reads its own relaxed nucleotides, compared with REINFORCE.

README.md beside this file describes the problem, the command and the figures.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.io.markdown import markdown_table
from nas.io.rng import derive_seed, keyed_generator
from nas.regularizers import entropy
from nas.relaxations import GumbelSoftmax, Softmax
from nas.tau import Exponential, LearnedTau, TauSchedule

sys.path.insert(0, str(Path(__file__).parents[1]))
from letters import Draw, Writer, drawn
from studies import options_of, spread

LETTERS, MOTIF = "ACGT", "TGACTC"
LENGTH, NUM_TRAIN, NUM_JUDGED = 16, 2000, 1000
CODE, HIDDEN, BATCH, NUM_STEPS = 8, 48, 64, 500
FAITH = 0.9
BONUS = 0.05


def motif_odds() -> Tensor:
    """Log-odds of each letter at each place of the motif against uniform letters: (6, 4)."""
    chances = torch.full((len(MOTIF), 4), (1 - FAITH) / 3)
    for place, letter in enumerate(MOTIF):
        chances[place, LETTERS.index(letter)] = FAITH
    return (chances * 4).log()


def sequences(number: int, generator: torch.Generator, *, motif: bool = True) -> Tensor:
    """Sequences with a motif, or without, as one-hot vectors: (N, length, 4)."""
    letters = torch.randint(0, 4, (number, LENGTH), generator=generator)
    if motif:
        meant = torch.tensor([LETTERS.index(letter) for letter in MOTIF]).expand(number, -1)
        other = (meant + torch.randint(1, 4, meant.shape, generator=generator)) % 4
        kept = torch.rand(meant.shape, generator=generator) < FAITH
        first = torch.randint(0, LENGTH - len(MOTIF) + 1, (number, 1), generator=generator)
        letters.scatter_(1, first + torch.arange(len(MOTIF)), torch.where(kept, meant, other))
    return F.one_hot(letters, 4).float()


def best_odds(written: Tensor) -> Tensor:
    """The best log-odds of the motif over all places of each sequence: (N, length, 4) to (N,)."""
    return F.conv1d(written.mT, motif_odds().T[None]).squeeze(1).amax(-1)


def recovery(written: Tensor) -> float:
    """Share of sequences whose odds reach the threshold that 5 % of sequences without a motif reach."""
    background = best_odds(sequences(20_000, keyed_generator(0, "background"), motif=False))
    threshold = background.quantile(0.95) - 1e-4  # tolerance for rounding: many sequences have equal odds
    return float((best_odds(written) >= threshold).float().mean())


class Autoencoder(nn.Module):
    """Encodes sequences, and writes sequences letter by letter; each step reads the previous letter."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(4, HIDDEN, batch_first=True, bidirectional=True)
        self.code = nn.Linear(2 * HIDDEN, 2 * CODE)
        self.write = Writer(4, LENGTH, CODE, HIDDEN, reads_code=True)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the codes: (B, length, 4) to twice (B, code)."""
        _, last = self.encoder(x)
        mean, log_variance = self.code(last.transpose(0, 1).flatten(1)).chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 8)

    def forward(self, x: Tensor, noise: Tensor, prior: Tensor, draw: Draw) -> tuple[Tensor, ...]:
        """Writes sequences from codes of the inputs, and from codes of the prior.

        Returns:
            Letters and logits of both groups, (2 B, length, 4) each, and the divergence of the codes from the prior (B,).
        """
        mean, log_variance = self.encode(x)
        code = mean + noise * (log_variance / 2).exp()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
        return *self.write(torch.cat([code, prior]), draw), divergence


def critic() -> nn.Module:
    """A network whose output is above 0 for sequences that look like training sequences."""
    return nn.Sequential(
        nn.Conv1d(4, 32, len(MOTIF)),
        nn.LeakyReLU(0.2),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 32),
        nn.LeakyReLU(0.2),
        nn.Linear(32, 1),
    )


class Result(NamedTuple):
    """The result of one training.

    Attributes:
        recovery: Share of written sequences with the motif.
        different: Share of different sequences.
        tau: The last temperature.
        entropy: Mean entropy of the written letters' probabilities, nats.
    """

    recovery: float
    different: float
    tau: float
    entropy: float


def losses(judge: nn.Module, x: Tensor, letters: Tensor, logits: Tensor, divergence: Tensor, weight: float) -> Tensor:
    """Each sequence's loss: (B,)."""
    (own, written) = logits[: len(x)], letters[len(x) :]
    reconstruction = (
        F.cross_entropy(own.flatten(0, 1), x.argmax(-1).flatten(), reduction="none").view(len(x), -1).sum(1)
    )
    return reconstruction + weight * divergence + 2.0 * F.softplus(-judge(written.mT).squeeze(1))


def train(tau: TauSchedule, seed: int, *, reinforce: bool = False, bonus: float = 0.0) -> Result:
    """Trains and evaluates one autoencoder."""
    torch.manual_seed(derive_seed(seed, "weights"))
    supernet, judge = nas.Supernet(Autoencoder()), critic()
    model: Any = supernet.network
    relaxation = GumbelSoftmax(hard=True)
    optimizer = torch.optim.Adam([*supernet.weight_parameters(), *tau.parameters()], lr=3e-3)
    judging = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.5, 0.999))
    data = sequences(NUM_TRAIN, keyed_generator(seed, "data"))
    for step in range(NUM_STEPS):
        generator = keyed_generator(seed, "batch", step)
        x = data[torch.randint(NUM_TRAIN, (BATCH,), generator=generator)]
        noise, prior = torch.randn(2, BATCH, CODE, generator=generator)
        letter_noise = keyed_generator(seed, "noise", step)
        weight = min(
            1.0, 2 * step / NUM_STEPS
        )  # of the divergence; with full weight at once, codes carry no information
        if reinforce:
            letters, logits, divergence = model(x, noise, prior, partial(drawn, generator=letter_noise))
            each = losses(judge, x, letters, logits, divergence, weight)
            chance = (torch.log_softmax(logits, -1) * letters).sum((1, 2)).view(2, BATCH).sum(0)
            loss = (each + advantage(each.detach()) * chance).mean()
        else:
            sample = supernet.sample(relaxation, tau(step / NUM_STEPS), generator=letter_noise)
            letters, logits, divergence = supernet(x, noise, prior, nas.sample, op_weights=sample)
            loss = losses(judge, x, letters, logits, divergence, weight).mean()
        if bonus:
            loss = loss - bonus * LENGTH * entropy(Softmax()(logits, tau(step / NUM_STEPS))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        judging.zero_grad()
        false, true = judge(letters[BATCH:].detach().mT), judge(x.mT)
        (F.softplus(false).mean() + F.softplus(-true).mean()).backward()
        judging.step()
    return judged(model, float(tau(1.0).detach()), seed)


def advantage(loss: Tensor) -> Tensor:
    """Each loss minus the mean of the other losses.

    Source: Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!".
    """
    return (loss - loss.mean()) * len(loss) / (len(loss) - 1)


@torch.no_grad()
def judged(model: Any, tau: float, seed: int) -> Result:
    """Evaluates sequences that a model writes from the prior."""
    generator = keyed_generator(seed, "judged")
    code = torch.randn(NUM_JUDGED, CODE, generator=generator)
    letters, logits = model.write(code, partial(drawn, generator=generator))
    different = len(letters.argmax(-1).unique(dim=0)) / NUM_JUDGED
    spread = float(entropy(torch.softmax(logits, -1)).mean())
    return Result(recovery(letters), different, tau, spread)


METHODS: dict[str, Callable[[int], Result]] = {
    "relaxed, tau annealed": lambda seed: train(Exponential(2.0, 0.5), seed),
    "relaxed, tau learned": lambda seed: train(LearnedTau(1.0), seed),
    "relaxed, tau learned with entropy bonus": lambda seed: train(LearnedTau(1.0), seed, bonus=BONUS),
    "REINFORCE": lambda seed: train(Exponential(1.0, 1.0), seed, reinforce=True),
}


def main() -> None:
    seeds = options_of(__doc__).seeds
    cells = []
    for name, method in METHODS.items():
        results = [method(seed) for seed in seeds]
        cells.append((name, *(spread(column) for column in zip(*results, strict=True))))
    print(markdown_table(("gradient", "motif recovered", "different", "last tau", "entropy of letters (nats)"), cells))
    real = recovery(sequences(NUM_JUDGED, keyed_generator(0, "real")))
    print(
        f"\nof sequences with a motif the scorer knows {real:.3f}, of others 0.05; even letters have {math.log(4):.3f} nats"
    )


if __name__ == "__main__":
    main()
