from types import SimpleNamespace

import pytest
from torch import nn

from nas.supernet.candidates import Skip
from nas.supernet.numbering import renumber_blocks


class Block(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.attention = nn.Linear(1, 1)
        self.attention.layer_idx = number


def network(dropped, types=None, first=0):
    result = nn.Module()
    result.blocks = nn.ModuleList(Skip() if i in dropped else Block(i + first) for i in range(4))
    result.config = SimpleNamespace(layer_types=types)
    return result


def numbers(made):
    renumber_blocks(made)
    return [block.attention.layer_idx for block in made.blocks if isinstance(block, Block)]


@pytest.mark.parametrize(
    ("dropped", "expected"), [((), [0, 1, 2, 3]), ((0,), [0, 1, 2]), ((1, 2), [0, 1]), ((0, 1, 2, 3), [])]
)
def test_blocks_are_numbered_without_gaps(dropped, expected):
    made = network(dropped)
    assert numbers(made) == expected
    assert numbers(made) == expected, "once more changes nothing"


def test_numbers_that_do_not_count_the_list_stay():
    assert numbers(network((0,), first=5)) == [6, 7, 8]


@pytest.mark.parametrize(
    ("types", "dropped", "expected"),
    [
        ("ffff", (0,), [0, 1, 2]),
        ("sfff", (1,), [0, 1, 2]),
        ("sfsf", (0, 1), [0, 1]),
        ("sfsf", (2,), [0, 1, 3]),
        ("sf", (0,), [0, 1, 2]),  # not a type for each block
    ],
)
def test_blocks_keep_an_entry_of_their_type(types, dropped, expected):
    assert numbers(network(dropped, types=list(types))) == expected
