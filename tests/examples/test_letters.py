import pytest
import torch


@pytest.fixture(scope="module")
def letters(load_file):
    return load_file("examples/letters.py")


def most_likely(logits):
    return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


@pytest.mark.parametrize("reads_code", [False, True])
def test_every_letter_is_drawn_from_its_own_logits_and_read_next(letters, reads_code):
    torch.manual_seed(0)
    writer = letters.Writer(5, 6, 3, 8, reads_code=reads_code)
    code = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    written, logits = writer(code, most_likely)
    assert written.shape == logits.shape == (40, 6, 5) and torch.equal(written, most_likely(logits))
    _, others = writer(code, lambda logits: torch.eye(5)[torch.zeros(len(logits), dtype=torch.long)])
    differs = written[:, 0].argmax(-1) != 0
    assert torch.equal(others[:, 0], logits[:, 0])  # nothing was read yet
    assert (others[differs, 1] != logits[differs, 1]).any(-1).all()  # the first letter was another
    assert torch.equal(others[~differs, 1], logits[~differs, 1])


def test_drawn_letters_have_their_probabilities(letters):
    logits = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64).expand(20_000, 3)
    drawn = letters.drawn(logits, torch.Generator().manual_seed(0))
    assert drawn.dtype == logits.dtype and drawn.sum(-1).eq(1).all()
    # four standard errors of 20,000
    torch.testing.assert_close(drawn.mean(0), torch.softmax(logits[0], -1), atol=0.015, rtol=0)
