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


@pytest.mark.parametrize("watched", ["entropy", "diversity"])
def test_heat_rises_once_after_a_collapse_and_not_near_the_end(text, watched):
    plain, reheated = text.schedule(None), text.schedule(watched)
    moments = ((0.5, 2.0, 0.9), (0.6, 0.1, 0.1), (0.99, 0.1, 0.1))
    heats = []
    for progress, entropy, diversity in moments:
        for schedule in (plain, reheated):
            schedule.observe(entropy, progress)
            schedule.observe_diversity(diversity, progress)
        heats.append(float(reheated(progress)) / float(plain(progress)))
    assert heats == pytest.approx([1, text.HEAT[watched], 1], rel=1e-6)


@pytest.mark.slow
def test_reheating_brings_words_back_sooner(text):
    torch.set_num_threads(1)
    plain, *reheated = (text.train(text.schedule(watched), 0) for watched in (None, "entropy", "diversity"))
    before, collapsed, later, *_ = text.MOMENTS
    for run in reheated:
        assert min(plain[before].words, run[before].words) > 0.9
        assert max(plain[collapsed].words, run[collapsed].words) < 0.2
        assert run[later].words > plain[later].words + 0.05
