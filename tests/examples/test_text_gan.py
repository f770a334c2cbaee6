import itertools
import math

import pytest
import torch


@pytest.fixture(scope="module")
def text(load_file):
    return load_file("examples/text_gan/text_gan.py")


def test_words_are_kept_apart_and_spelt_back(text):
    train, held = text.words()
    assert not set(train) & set(held) and len(held) == (len(train) + len(held)) // 10 and text.LURE in (*train, *held)
    assert text.decoded(text.encoded(train[:50])) == list(train[:50])
    assert all(4 <= len(word) < text.LENGTH and set(word) <= set(text.LETTERS) for word in (*train, *held))


def test_probabilities_of_the_model_sum_to_one(text):
    model = text.TrigramModel(["ABBA", "ABLE", "CAB"])
    torch.testing.assert_close(model.chances.sum(-1), torch.ones(28, 28))
    assert (model.chances > 0).all()


def test_surprise_by_hand(text):
    """One word, one character's probability after another: of 3-grams 0.7, of 2-grams 0.2, of 1-grams 0.1."""
    model = text.TrigramModel(["AAB"])
    single = {"A": 3 / 31, "B": 2 / 31, "end": 2 / 31}  # counts of 2, 1 and 1, and one more of 27 each
    first = 0.7 * 1 + 0.2 * 1 + 0.1 * single["A"]  # nothing but A begins a word
    second = 0.7 * 1 + 0.2 * 1 / 2 + 0.1 * single["A"]  # after A: A or B
    third = 0.7 * 1 + 0.2 * 1 / 2 + 0.1 * single["B"]
    last = 0.7 * 1 + 0.2 * 1 + 0.1 * single["end"]
    expected = -sum(math.log(p) for p in (first, second, third, last)) / 4
    assert model.surprise(["AAB"]) == pytest.approx(expected, rel=1e-5)
    assert model.surprise(["AAB"]) < model.surprise(["BAA"]) < math.inf


def test_different_ngrams_by_counting(text):
    texts = ["ABAB", "ABC", "XY", "ABC"]
    assert text.different(texts) == 3 / 4
    grams = [word[i : i + 3] for word, i in itertools.product(texts, range(5)) if len(word[i : i + 3]) == 3]
    assert text.different(texts, 3) == len(set(grams)) / len(grams) == 3 / 4
    assert text.different([], 3) == 0.0


def test_heat_rises_once_when_entropy_falls_and_not_near_the_end(text):
    plain, reheated = text.schedule(False), text.schedule(True)
    for schedule in (plain, reheated):
        schedule.observe(2.0, 0.5)
    assert float(plain(0.5)) == float(reheated(0.5)) == pytest.approx(10**-0.5)
    for schedule in (plain, reheated):
        schedule.observe(0.1, 0.5)
    assert float(reheated(0.5)) == pytest.approx(5 * float(plain(0.5)))
    assert float(reheated(0.71)) == pytest.approx(float(plain(0.71)))


@pytest.mark.slow
def test_reheating_brings_words_back_sooner(text):
    torch.set_num_threads(1)
    plain, reheated = (text.train(text.schedule(reheat), 0) for reheat in (False, True))
    assert plain["before"] == reheated["before"] and plain["before"].words > 0.9
    assert max(run["collapsed"].words for run in (plain, reheated)) < 0.2
    assert reheated["a twentieth later"].words > plain["a twentieth later"].words + 0.1
