"""Launches through Ray: what is killed goes on and ends as if nothing had happened, and nobody else can reach it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nas.launch.ray_tune import epochs

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.integrations
LAUNCH = [sys.executable, "-m", "nas", "launch"]
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
CLUSTER = """
import os, sys, threading, time
from pathlib import Path
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
from ray.cluster_utils import Cluster
from nas.cli import main
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
trials = Path("all/trials")
def remove():
    while not all((trials / f"seed{seed}/checkpoints/last.ckpt").exists() for seed in (3, 4)):
        time.sleep(0.02)
    cluster.remove_node(other, allow_graceful=False)
    Path("removed").write_text("")
threading.Thread(target=remove, daemon=True).start()
code = main(["launch", "--engine", "ray", "--address", cluster.address, *sys.argv[1:]])
cluster.shutdown()
os._exit(code)
"""


def descendants(pid):
    """The process and all below it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def listening(pids):
    """Addresses on which processes listen, as the kernel's socket table has them."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    addresses = {row[9]: row[1].partition(":")[0] for row in rows if row[3] == "0A"}
    found = set()
    for pid in pids:
        try:
            links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
        found |= {address for inode, address in addresses.items() if inode in inodes}
    return found


def searching(folder, name, process, wait_until):
    """The process of one search of a launch, once it has a checkpoint; and its parent."""
    wait_until((folder / "trials" / name / "checkpoints/last.ckpt").exists, process)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
            if "search" in words and str(folder / "trials" / name) in words:
                return int(path.parent.name), int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    raise AssertionError(f"{name} is over already")


@pytest.fixture
def launched(config, run_cli, tmp_path):
    """Makes a configuration and runs searches by hand; compares a launch with them."""
    path = config({"trainer.max_epochs": 30})

    def compare(seeds, changes=()):
        for seed in seeds:
            words = ("--config", path, f"--seed_everything={seed}", *changes, "--out", f"own{seed}")
            assert run_cli("search", *words).code == 0
            for name in ("metrics.csv", "genotype.json"):
                mine, own = tmp_path / f"all/trials/seed{seed}" / name, tmp_path / f"own{seed}" / name
                assert mine.read_bytes() == own.read_bytes(), (seed, name)

    return compare


def test_a_scheduler_hears_of_whole_epochs(tmp_path):
    path = tmp_path / "metrics.csv"
    assert epochs(path) == []
    path.write_text("step,epoch,weight/loss,arch/loss\n9,0,2.5,\n18,1,2.0,1.5\n27,2,1.")  # the last is being written
    assert epochs(path) == [{"epoch": 1, "loss": 2.5}, {"epoch": 2, "loss": 1.5}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--address", "127.0.0.1:1"), "need --engine ray"),
        (("--asha",), "need --engine ray"),
        (("--engine", "ray", "--job", "partition=x"), "num_cpus=N and num_gpus=N, not partition=x"),
        (("--engine", "ray", "--job", "num_cpus=x"), "not num_cpus=x"),
        (("--job", "num_cpus=1"), "--job needs"),
        (("--engine", "slurm", "--num-parallel", "2"), "SLURM decides"),
    ],
)
def test_wrong_usage(run_cli, config, words, message):
    config()
    answer = run_cli("launch", "--config", "tiny.yaml", "--seeds", "0", *words)
    assert answer.code == 2 and message in answer.complaint and not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_nothing_listens_beyond_loopback_and_what_is_killed_goes_on(launched, tmp_path, engine, wait_until):
    words = ["--config", "tiny.yaml", "--seeds", "3-6", "--engine", engine, "--num-parallel", "2", "--out", "all"]
    process = subprocess.Popen([*LAUNCH, *words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    heard, looks = set(), []

    def look():
        while process.poll() is None:
            heard.update(listening(descendants(process.pid)))
            looks.append(len(descendants(process.pid)))
            time.sleep(0.2)

    watcher = threading.Thread(target=look)
    watcher.start()
    child, _ = searching(tmp_path / "all", "seed3", process, wait_until)
    os.kill(child, signal.SIGKILL)
    if engine == "ray":  # its worker too
        _, worker = searching(tmp_path / "all", "seed4", process, wait_until)
        os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    watcher.join()
    assert process.returncode == 0, err
    assert len(looks) > 5 and max(looks) > 2  # that it was looked at
    assert heard <= LOOPBACK and bool(heard) == (engine == "ray")
    assert json.loads(out.splitlines()[-1])["settings"][0]["num_finished"] == 4
    launched([3, 4, 5] if engine == "ray" else [3])


@pytest.mark.slow
def test_a_lost_node_loses_no_search(launched, tmp_path):
    (tmp_path / "cluster.py").write_text(CLUSTER)
    words = ["--config", "tiny.yaml", "--seeds", "3-6", "--trainer.max_epochs", "120", "--out", "all"]
    done = subprocess.run(
        [sys.executable, "cluster.py", *words], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "removed").exists() and "continuing after a failure" in done.stderr
    assert json.loads((tmp_path / "all/summary.json").read_text())["settings"][0]["num_finished"] == 4
    launched([3, 4, 5], ("--trainer.max_epochs", "120"))


@pytest.mark.slow
def test_a_killed_driver_goes_on_without_what_is_finished(launched, tmp_path, wait_until):
    words = ["--config", "tiny.yaml", "--seeds", "3-5", "--engine", "ray", "--num-parallel", "1", "--out", "all"]
    process = subprocess.Popen([*LAUNCH, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    searching(tmp_path / "all", "seed4", process, wait_until)
    process.kill()
    process.wait()
    said = (tmp_path / "all/logs/seed3.txt").read_text()
    again = [*LAUNCH, "--resume", "all", "--engine", "ray", "--json"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["settings"][0]["num_finished"] == 3
    assert (tmp_path / "all/logs/seed3.txt").read_text() == said  # it was not run again
    launched([3, 4])


@pytest.mark.slow
def test_halving_stops_searches_for_good(launched, tmp_path):
    words = ["--config", "tiny.yaml", "--seeds", "3-8", "--engine", "ray", "--asha", "--out", "all", "--json"]
    done = subprocess.run([*LAUNCH, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    stopped = [row for row in summary["trials"] if "stopped_after" in row]
    finished = [row for row in summary["trials"] if "arch" in row]
    assert stopped and finished and len(stopped) + len(finished) == 6
    rungs = {rung + late for rung in (3, 9, 27) for late in range(3)}  # a search learns of its stop a little later
    assert {row["stopped_after"] for row in stopped} <= rungs
    again = subprocess.run(
        [*LAUNCH, "--resume", "all", "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert again.returncode == 0 and json.loads(again.stdout)["trials"] == summary["trials"]
