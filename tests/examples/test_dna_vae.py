import itertools

import pytest
import torch
from torch.nn import functional as F

import nas
from nas.relaxations import GumbelSoftmax
from nas.tau import Exponential


@pytest.fixture(scope="module")
def dna(load_file):
    return load_file("examples/dna_vae/dna_vae.py")


def one_hot(dna, text):
    return F.one_hot(torch.tensor([[dna.LETTERS.index(letter) for letter in text]]), 4).float()


def test_the_scorer_by_hand(dna):
    right, wrong = torch.tensor(0.9 * 4).log(), torch.tensor(0.1 / 3 * 4).log()
    torch.testing.assert_close(dna.best_odds(one_hot(dna, "AAAATGACTCAAAAAA")), (6 * right)[None])
    torch.testing.assert_close(dna.best_odds(one_hot(dna, "AAAATGACTGAAAAAA")), (5 * right + wrong)[None])
    assert dna.recovery(one_hot(dna, "TGACTCAAAAAAAAAA")) == 1.0 and dna.recovery(one_hot(dna, "A" * 16)) == 0.0


def test_sequences_hold_the_motif_as_often_as_stated(dna):
    """All six letters in place with probability 0.9^6; elsewhere it is there by chance in about 11 / 4^6."""
    with_motif = dna.sequences(20_000, torch.Generator().manual_seed(0))
    perfect = 6 * torch.tensor(0.9 * 4).log() - 1e-4
    share = float((dna.best_odds(with_motif) > perfect).float().mean())
    assert share == pytest.approx(0.9**6 + 11 / 4**6, abs=0.015)  # four standard errors of 20,000
    without = dna.sequences(20_000, torch.Generator().manual_seed(0), motif=False)
    assert dna.recovery(without) == pytest.approx(0.05, abs=0.01)  # odds are few numbers: 11 * 19 / 4^6 by one letter
    assert with_motif.sum(-1).eq(1).all()


def test_cold_relaxed_writing_is_ordinary_writing(dna):
    """The same noise: straight-through samples are the letters that Gumbel-max draws."""
    torch.manual_seed(0)
    supernet = nas.Supernet(dna.Autoencoder())
    code = torch.randn(5, dna.CODE, generator=torch.Generator().manual_seed(1))
    sample = supernet.sample(GumbelSoftmax(hard=True), 1e-4, generator=torch.Generator().manual_seed(2))
    x, noise = torch.zeros(0, dna.LENGTH, 4), torch.zeros(0, dna.CODE)
    supernet.network.encode = lambda x: (x.new_zeros(0, dna.CODE), x.new_zeros(0, dna.CODE))
    letters, logits, _ = supernet(x, noise, code, nas.sample, op_weights=sample)
    generator = torch.Generator().manual_seed(2)
    expected, their_logits = supernet.network.write(code, lambda logits: dna.drawn(logits, generator))
    torch.testing.assert_close(letters, expected)
    torch.testing.assert_close(logits, their_logits)


def test_reinforce_is_unbiased_by_enumeration(dna):
    """Two letters of four, each loss known: the mean of the score function's gradient is that of the expected loss."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    table = torch.randn(4, 4, dtype=torch.float64)
    chances = torch.softmax(logits, -1)
    expected = sum(chances[0, a] * chances[1, b] * table[a, b] for a, b in itertools.product(range(4), repeat=2))
    (exact,) = torch.autograd.grad(expected, logits)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(400):
        many = logits.expand(200, 2, 4)
        letters = dna.drawn(many, generator)
        loss = table[letters[:, 0].argmax(-1), letters[:, 1].argmax(-1)]
        chance = (torch.log_softmax(many, -1) * letters).sum((1, 2))
        (gradient,) = torch.autograd.grad((dna.advantage(loss) * chance).mean(), logits)
        found.append(gradient)
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 400**0.5
    assert ((mean - exact).abs() < 4.5 * error).all()


@pytest.mark.slow
def test_relaxed_letters_recover_the_motif_more_often_than_reinforce(dna):
    torch.set_num_threads(1)
    relaxed = dna.train(Exponential(2.0, 0.5), 0)
    score = dna.train(Exponential(1.0, 1.0), 0, reinforce=True)
    assert relaxed.recovery > score.recovery + 0.03  # 1,000 sequences: two and a half standard errors
    assert relaxed.different > 0.9
