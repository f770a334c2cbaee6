"""What every fault needs: a process that has run nothing before, how many to try, and where."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random

import pytest
from child import reset_start_method


@pytest.fixture(scope="session")
def attempt(tmp_path_factory):
    """Fails with all lines that a function returns; calls it with a folder in a new process, which can be forked safely."""
    folder = tmp_path_factory.mktemp("faults")
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=reset_start_method) as pool:

        def call(function, *args):
            wrong = pool.submit(function, folder, *args).result()
            if wrong:
                pytest.fail("\n".join(wrong), pytrace=False)

        yield call


@pytest.fixture(scope="session")
def count(pytestconfig):
    """Scales a full count by ``--fault-share``."""
    return lambda full: max(1, round(full * pytestconfig.getoption("--fault-share")))


@pytest.fixture
def draw(request):
    """The random numbers of a test, by ``--fault-seed``."""
    return Random(f"{request.config.getoption('--fault-seed')}/{request.node.name}")
