"""The tutorial of a smaller sentence encoder: its figures by hand, and the whole script on a tiny BERT."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

SCRIPT = Path(__file__).parents[2] / "examples" / "sentence_encoder" / "sentence_encoder.py"
WORDS = "the a quick slow brown red fox dog jumps runs over under lazy old cat bird".split()

pytestmark = pytest.mark.integrations


@pytest.fixture(scope="module")
def example(load_file):
    pytest.importorskip("transformers")
    return load_file("examples/sentence_encoder/sentence_encoder.py")


def test_sentences_are_cut_at_their_ends(example):
    text = "It is a long way to go.  Is it not?\n%\nOne more sentence\nof two lines!\n%\n1234 is not a word at all."
    assert example.sentences_of([text, text]) == ["It is a long way to go.", "One more sentence of two lines!"]


def test_padding_counts_neither_in_embeddings_nor_in_the_loss(example):
    torch.manual_seed(0)
    states, other = torch.randn(2, 2, 4, 5).double()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    means = [states[0, :3].mean(0), states[1, :2].mean(0)]
    expected = torch.stack([mean / mean.norm() for mean in means])
    torch.testing.assert_close(example.embedding(states, mask), expected)
    cosine = torch.nn.functional.cosine_similarity
    tokens = torch.stack([1 - cosine(states[i, t], other[i, t], dim=0) for i, t in mask.nonzero().tolist()]).mean()
    pooled = (1 - cosine(expected, example.embedding(other, mask))).mean()
    torch.testing.assert_close(example.loss_of(states, other, mask), tokens + pooled)
    assert float(example.loss_of(states, 3 * states, mask)) == pytest.approx(0, abs=1e-12)


class Fixed(torch.nn.Module):
    """States of tokens from a table."""

    def __init__(self, seed):
        super().__init__()
        self.table = torch.nn.Embedding(
            20, 6, _weight=torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))
        )

    def forward(self, ids, mask):
        return self.table(ids)


def test_agreement_is_that_of_all_pairs(example):
    sentences = example.Sentences(torch.randint(20, (70, 4)), torch.ones(70, 4, dtype=torch.long))
    own, other = Fixed(0), Fixed(1)
    a, b = (example.embedding(net(*sentences), sentences.mask).detach().numpy() for net in (own, other))
    pairs = [(i, j) for i in range(70) for j in range(i)]
    ranks = spearmanr([a[i] @ a[j] for i, j in pairs], [b[i] @ b[j] for i, j in pairs]).statistic
    cosine, found = example.agreement(own, other, sentences)
    assert cosine == pytest.approx(np.mean([x @ y for x, y in zip(a, b, strict=True)]), abs=1e-6)  # float32
    assert found == pytest.approx(ranks, abs=1e-4)  # ties by rounding


def test_the_script_keeps_the_limit_and_loads_its_folder(example, tmp_path):
    from transformers import AutoModel, BertConfig, BertModel, BertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS) + 6, **sizes)).save_pretrained(tmp_path / "model")
    draw = np.random.default_rng(0)
    lines = ["The " + " ".join(draw.choice(WORDS, 8)) + "." for _ in range(700)]
    (tmp_path / "texts").write_text("\n%\n".join(lines))
    words = [sys.executable, str(SCRIPT), "--model", "model", "--texts", "texts", "--search-steps", "2"]
    done = subprocess.run(
        [*words, "--num-steps", "2", "--out", "out"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("| ")][
        1:
    ]
    assert [row[1] for row in rows] == [
        f"{name}, {stage} training" for name in ("found", "by magnitude") for stage in ("before", "after")
    ]
    assert all(float(row[2].rstrip("%")) >= 33 and 0 < float(row[3]) < 1 for row in rows)
    loaded = AutoModel.from_pretrained(tmp_path / "out" / "huggingface", trust_remote_code=True)
    whole = BertModel.from_pretrained(tmp_path / "model")
    kept = sum(p.numel() for p in loaded.encoder.parameters()) / sum(p.numel() for p in whole.encoder.parameters())
    assert kept <= 0.67
