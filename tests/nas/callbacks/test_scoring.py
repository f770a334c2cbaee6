import io

import pytest
from rich.console import Console

import nas
from nas.callbacks import scoring
from nas.callbacks.scoring import ScoringProgress
from nas.derive import Evolution, Ranked


def test_lines_come_at_intervals_with_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(scoring.time, "monotonic", lambda: now[0])
    text = io.StringIO()
    progress = ScoringProgress("derive", Console(file=text))
    for done in range(1, 41):
        now[0] += 1.0
        progress(done, 40)
    progress.stop()
    lines = text.getvalue().splitlines()
    assert lines[0] == "derive 10/40 architectures, about 30 s left" and len(lines) == 4


def test_a_terminal_gets_a_bar_that_vanishes():
    text = io.StringIO()
    progress = ScoringProgress("derive", Console(file=text, force_terminal=True, width=80))
    progress(3, 8)
    progress.stop()
    assert "3/8" in text.getvalue()


@pytest.mark.parametrize("strategy", [Ranked(num=4), Evolution(num=4, population=2, num_parents=1)])
def test_strategies_tell_how_far_they_are(strategy, monkeypatch):
    class Scores:
        def __init__(self, *args, **options):
            self.value = 0.0

        def __call__(self, choices):
            self.value += 1.0
            return self.value

    monkeypatch.setattr("nas.derive.ranked.InheritedScore", Scores)
    monkeypatch.setattr("nas.derive.evolution.InheritedScore", Scores)
    from nas.derive import Searched
    from nas.relaxations import Softmax
    from search_spaces.dilation import DilationNet1d

    space, told = DilationNet1d(num_layers=3, channels=2, dilations=[1, 2]), []
    supernet = nas.Supernet(space.network())
    searched = Searched(
        supernet=supernet, relaxation=Softmax(), space=space, on_progress=lambda *pair: told.append(pair)
    )
    strategy.genotype(searched)
    assert told == [(i, 4) for i in range(1, 5)]
