"""The tutorial of a smaller Llama: its loss, its texts, and the whole script with few steps."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "tiny_llama" / "tiny_llama.py"

pytestmark = pytest.mark.integrations


@pytest.fixture(scope="module")
def example(load_file):
    pytest.importorskip("transformers")
    return load_file("examples/tiny_llama/tiny_llama.py")


def test_texts_are_sorted_after_the_sign(example):
    (row,) = example.texts(1, torch.Generator().manual_seed(0)).tolist()
    assert sorted(row[:8]) == row[9:] and row[8] == 8
    words = example.tokenizer()
    assert words("cab>")["input_ids"] == [2, 0, 1, 8] and words.decode([2, 0, 1, 8]) == "cab>"


def test_the_loss_is_that_of_the_sorted_letters(example):
    parent, tokens = example.trained(1), example.texts(4, torch.Generator().manual_seed(0))
    scores = parent(tokens).logits.log_softmax(-1)
    terms = [scores[i, place - 1, tokens[i, place]] for i in range(4) for place in range(9, 17)]
    alone = example.loss_of(parent, tokens)
    torch.testing.assert_close(alone, -sum(terms) / len(terms))
    torch.testing.assert_close(example.loss_of(parent, tokens, parent), alone / 2)  # it is its own teacher


def test_the_script_keeps_the_limit_and_loads_its_folder(tmp_path):
    pytest.importorskip("transformers")
    words = [sys.executable, str(SCRIPT), "--num-steps", "20", "--share", "0.4", "--out", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    parent, found = (int(row[2].replace(",", "")) for row in table[1:])
    assert parent == 112_192 and found <= 0.4 * parent
    text = done.stdout.splitlines()[-1]
    assert len(text) == 17 and text.startswith("hgfedcba>") and set(text) <= set("abcdefgh>")
