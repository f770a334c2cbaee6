"""A recurrent network that writes letters and reads its own letters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas.relaxations import gumbel_max
from nas.relaxations.base import one_hot

Draw = Callable[[Tensor], Tensor]
"""Takes logits (B, K) to letters (B, K), relaxed or one-hot."""


class Writer(nn.Module):
    """Writes texts from codes, one letter after the other.

    Args:
        num_letters: Size of the alphabet, K.
        length: Letters of a text.
        code: Size of a code.
        hidden: Size of the hidden state.
        reads_code: Whether each step reads the code; otherwise only the first hidden state depends on it.
    """

    def __init__(self, num_letters: int, length: int, code: int, hidden: int, *, reads_code: bool) -> None:
        super().__init__()
        self.num_letters, self.length, self.reads_code = num_letters, length, reads_code
        self.begin = nn.Linear(code, hidden)
        self.cell = nn.GRUCell(num_letters + code * reads_code, hidden)
        self.letter = nn.Linear(hidden, num_letters)

    def forward(self, code: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Codes (B, code) to letters and their logits, both (B, length, K)."""
        hidden, letter = torch.tanh(self.begin(code)), code.new_zeros(len(code), self.num_letters)
        letters, logits = [], []
        for _ in range(self.length):
            hidden = self.cell(torch.cat([letter, code], dim=-1) if self.reads_code else letter, hidden)
            logits.append(self.letter(hidden))
            letter = draw(logits[-1])
            letters.append(letter)
        return torch.stack(letters, dim=1), torch.stack(logits, dim=1)


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Letters drawn from logits, without gradient."""
    return one_hot(gumbel_max(logits, generator), logits)
