"""What every fault needs: a process that has run nothing before, how many to try, and where."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random

import pytest
from child import reset_start_method


@pytest.fixture(scope="session")
def attempt(tmp_path_factory):
    """Calls a function with a folder and its arguments, in a new process, which can be forked safely."""
    folder = tmp_path_factory.mktemp("faults")
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=reset_start_method) as pool:
        yield lambda function, *args: pool.submit(function, folder, *args).result()


@pytest.fixture(scope="session")
def count(pytestconfig):
    """Scales a full count by ``--fault-share``."""
    return lambda full: max(1, round(full * pytestconfig.getoption("--fault-share")))


@pytest.fixture
def draw(request):
    """The random numbers of a test, by ``--fault-seed``."""
    return Random(f"{request.config.getoption('--fault-seed')}/{request.node.name}")
