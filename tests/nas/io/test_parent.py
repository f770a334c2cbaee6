import subprocess
import sys

import pytest

GRANDCHILD = """
import os, signal, sys, time
from nas.io.parent import PARENT, stop_with_parent
signal.signal(signal.SIGTERM, lambda *_: (print("stopped", flush=True), os._exit(0)))
stop_with_parent()
assert PARENT not in os.environ
print("running", flush=True)
time.sleep(60)
"""
CHILD = """
import os, subprocess, sys, time
from nas.io.parent import PARENT
subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, PARENT: sys.argv[2] or str(os.getpid())})
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells of a parent's end")
@pytest.mark.parametrize("named", ["", "1"], ids=["its parent", "one that is gone"])
def test_a_command_stops_when_its_parent_is_killed(named):
    child = subprocess.Popen([sys.executable, "-c", CHILD, GRANDCHILD, named], stdout=subprocess.PIPE, text=True)
    if not named:
        assert child.stdout.readline() == "running\n"
        child.kill()
    assert child.stdout.readline() == "stopped\n"
    child.kill()
    child.wait()
    child.stdout.close()
