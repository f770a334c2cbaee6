"""How stable a choice is: distributions that are learned again from half of the scores."""

import itertools
from functools import partial

import pytest
import torch
from torch.optim import Adam

from nas.alpha import Autoregressive, Factorised, Joint, Pairwise
from nas.derive.stability import mode_of_scores, stability, stability_text

SIZES = (3, 4)
PATHS = [list(path) for path in itertools.product(*map(range, SIZES))]


def made(kind):
    kind.build(SIZES)
    mask = torch.tensor([[k < size for k in range(4)] for size in SIZES])
    return Joint(kind, torch.zeros(2, 4), mask, SIZES)


@pytest.mark.parametrize("kind", [Autoregressive, Pairwise])
@pytest.mark.parametrize("seed", range(5))
def test_two_dependent_choices_learn_every_table_of_scores(kind, seed):
    """Pairs of two choices describe all distributions, so the best architecture is the most probable one."""
    scores = torch.randn(12, generator=torch.Generator().manual_seed(seed))
    found = mode_of_scores(made(kind()), torch.tensor(PATHS), scores, partial(Adam, lr=0.1))
    assert found == PATHS[int(scores.argmin())]


def test_independent_choices_learn_sums():
    scores = torch.tensor([[0.3, 0.0, 0.9, 0.5][b] + [0.4, 0.2, 0.0][a] for a, b in PATHS])
    assert mode_of_scores(made(Factorised()), torch.tensor(PATHS), scores, partial(Adam, lr=0.1)) == [2, 1]


def moments(*bests):
    return [{"batch": 10 * (i + 1), "most_probable": [{"choices": {"a": best}}]} for i, best in enumerate(bests)]


def test_a_clear_winner_is_stable_and_noise_is_not():
    joint, optimizer = made(Pairwise()), partial(Adam, lr=0.1)
    with torch.no_grad():
        joint.rows[0, 1] = joint.rows[1, 2] = 5.0  # the most probable path is [1, 2]
    clear = [(path, float(path[0] != 1) + float(path[1] != 2)) for path in PATHS * 2]
    found = stability(joint, clear, optimizer, moments(*"xyxxxxxxxxxx"), seed=0)
    # each half misses a pair of equal entries by chance, and may then have another best architecture
    assert found.pop("halves_agree") >= 3 and found == {"changed_late": False, "num_halves": 4}
    other = [(path, float(path[0] != 0) + float(path[1] != 0)) for path in PATHS * 2]
    assert stability(joint, other, optimizer, moments("x"), seed=0)["halves_agree"] == 0
    assert stability(joint, [], optimizer, moments(*"xxxxxxxxxxxxxxxxxxxyx"), seed=0) == {
        "changed_late": True,
        "num_halves": 0,
        "halves_agree": 0,
    }


def test_the_sentence_says_what_was_found():
    found = {"changed_late": True, "num_halves": 4, "halves_agree": 3}
    text = "the most probable architecture changed in the last tenth of the search"
    assert stability_text(found) == f"{text}, and is the same for 3 of 4 random halves of the scored architectures"
    assert stability_text({**found, "num_halves": 0}) == text
