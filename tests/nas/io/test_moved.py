"""Old dotted paths lead to the modules of today."""

import subprocess
import sys
from importlib import import_module

import pytest

import nas
from nas.io.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_path_is_the_module_of_the_new_one(old):
    new = import_module(MOVED[old])
    before = new.__spec__.name
    assert import_module(old) is new
    assert new.__spec__.name == before == MOVED[old] and new.__name__ == MOVED[old]


def test_packages_are_attributes_of_nas():
    words = "import nas; nas.relaxations.GumbelSoftmax, nas.tau.Exponential, nas.costs.num_macs, nas.candidates.Zero"
    subprocess.run([sys.executable, "-c", words], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nas.nothing
