import os
import signal
import subprocess
import sys
import time

import pytest

from nas.io.errors import UsageError
from nas.io.folder_lock import LOCK, locked, wait_until_free

HOLDER = """
import os, sys, time
from pathlib import Path
from nas.io.folder_lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader process is made
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder, with a child."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_it(holder, tmp_path):
    with pytest.raises(UsageError, match=f"{tmp_path.name}: in use by process {holder.pid} on "), locked(tmp_path):
        pass


def test_a_killed_holder_frees_it_though_its_children_live_on(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(UsageError, match="gone: cannot be written: No such file"), locked(tmp_path / "gone"):
        pass


def test_waiting_ends_when_the_holder_does_or_the_time_is_over(holder, tmp_path):
    begin = time.monotonic()
    wait_until_free(tmp_path, 0.3)
    assert time.monotonic() - begin >= 0.3
    holder.kill()
    wait_until_free(tmp_path, 60)
    with locked(tmp_path):
        pass
