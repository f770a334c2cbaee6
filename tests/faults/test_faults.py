"""Searches are killed, files are damaged, and hostile files are read: nothing is lost, and nothing does harm.

pytest -m slow tests/faults                          # a hundredth of the faults
pytest -m slow tests/faults --fault-share 1 -n 0     # all of them, in about 15 minutes

A test fails with the list of what went wrong.
"""

import damage
import fuzzing
import hostile
import killing
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_search_resumes_exactly(attempt, count, draw, num_workers):
    attempt(killing.kills, num_workers, count(60), count(5), draw)


def test_a_killed_command_resumes_exactly(attempt, count, draw):
    attempt(killing.kills_of_commands, count(10), draw)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["TMPDIR beside it", "TMPDIR elsewhere"])
def test_a_kill_while_a_checkpoint_is_written_leaves_a_readable_one(attempt, count, draw, elsewhere):
    attempt(killing.kills_while_writing, count(100), elsewhere, draw)


def test_a_terminated_search_saves_every_finished_batch(attempt, count, draw):
    attempt(killing.terminations, count(50), draw)


def test_a_full_disk_is_reported_and_the_search_resumes_exactly(attempt, count):
    attempt(killing.full_disks, count(20))


def test_damaged_checkpoints_exports_and_genotypes_are_noticed(attempt, count, draw):
    attempt(damage.damages, count(1000), count(200), draw)


def test_hostile_files_are_refused_in_one_line(attempt):
    attempt(hostile.hostile_inputs)


def test_made_up_configurations_and_genotypes_raise_nothing_but_our_errors(attempt, count, draw):
    attempt(fuzzing.fuzz, count(300), draw)
