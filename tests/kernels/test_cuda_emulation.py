"""The CUDA sources under g++: a thread for each CUDA thread, against float64, under sanitizers, and broken on purpose."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
EMULATION = Path(__file__).parent / "emulation"
OPTIONS = ("-std=c++20", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-pthread")
# small, so that small tensors have several tiles, chunks, blocks and rounds of each loop
SMALL = (
    "-DNAS_MIX_THREADS=64",
    "-DNAS_MIX_REDUCE_THREADS=64",
    "-DNAS_MIX_TILES=8",
    "-DNAS_MIX_WIDE_OUTPUTS=16",
    "-DNAS_MIX_BLOCKS_PER_PROCESSOR=2",
    "-DNAS_TAPS_WINDOW_BYTES=4096",
    "-DNAS_TAPS_BLOCKS=8",
    "-DNAS_TAPS_CHUNK=3",
)
PLAIN = ("-O0",)
THREAD = ("-O0", "-g1", "-fsanitize=thread")
ADDRESS = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TAPS = "taps_driver.cpp"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@dataclass(frozen=True)
class Job:
    """A build of the driver and how to run it; a mutation is (file, text, what replaces it)."""

    options: tuple[str, ...]
    words: tuple[str, ...] = ()  # for the driver: every n-th case, from which on
    mutation: tuple[str, str, str] | None = None
    constants: tuple[str, ...] = SMALL
    driver: str = "driver.cpp"

    def __call__(self, folder):
        sources = KERNELS
        if self.mutation:
            sources = folder / "kernels"
            sources.mkdir()
            for path in KERNELS.iterdir():
                if path.suffix in (".h", ".cuh", ".cu"):
                    shutil.copy(path, sources)
            name, old, new = self.mutation
            text = (sources / name).read_text()
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
            (sources / name).write_text(text.replace(old, new))
        command = ["g++", *OPTIONS, *self.options, *self.constants, f"-I{sources}", f"-I{EMULATION}"]
        built = run([*command, EMULATION / self.driver, "-o", folder / "driver"])
        assert built.returncode == 0, built.stderr
        ran = run([folder / "driver", *self.words])
        if "unexpected memory mapping" in ran.stderr:  # an older sanitizer on a kernel that randomises more bits
            ran = run(["setarch", "-R", folder / "driver", *self.words])
        return ran


def run(words):
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1:exitcode=66"}
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600, env=environment)


SOUND = {
    "numerics": Job(PLAIN, ("2",)),
    "taps, numerics": Job(PLAIN, ("2",), driver=TAPS),
}
SLOW = {
    "address": Job(ADDRESS, ("4",)),
    "thread": Job(THREAD, ("13", "4")),
    "taps, address": Job(ADDRESS, ("3",), driver=TAPS),
    "taps, thread": Job(THREAD, ("5", "2"), driver=TAPS),
    "numerics, all cases": Job(PLAIN),
    "address, all cases": Job(ADDRESS),
    "thread, all cases": Job(THREAD),
    "block sizes as built": Job(("-O2",), ("4",), constants=()),
    "taps, numerics, all cases": Job(PLAIN, driver=TAPS),
    "taps, address, all cases": Job(ADDRESS, driver=TAPS),
    "taps, thread, all cases": Job(THREAD, driver=TAPS),
    "taps, block sizes as built": Job(("-O2",), constants=(), driver=TAPS),
}

# What the run is to say: of a race, of bad memory, or of a wrong number.
RACE, MEMORY, WRONG = "data race", "runtime error|AddressSanitizer|past the end", "expected|failed"
COLUMNS, TILES = "51", "18"  # the first case of each, for a quick find

# name: (options, first case, file, text, replacement, what is said)
MUTATIONS = {
    "no barrier before the sums of columns are read": (
        *(THREAD, COLUMNS, "mix.cuh"),
        "sums[warp][lane * V + e] = sum[c][e];\n            __syncthreads();",
        "sums[warp][lane * V + e] = sum[c][e];",
        RACE,
    ),
    "no barrier before the weights are overwritten": (
        *(THREAD, COLUMNS, "mix.cuh"),
        "__syncthreads();  // the weights before these have been read",
        "",
        RACE,
    ),
    "no barrier before the sums of a block are read": (
        *(THREAD, TILES, "reduce.cuh"),
        "if (lane == 0) sums[warp] = sum;\n            __syncthreads();",
        "if (lane == 0) sums[warp] = sum;",
        RACE,
    ),
    "a vector too many": (
        *(ADDRESS, TILES, "mix.cuh"),
        "v < end; v += kWarp",
        "v <= end; v += kWarp",
        f"{MEMORY}|{WRONG}",
    ),
    "alignment ignored": (*(ADDRESS, "", "launch.cuh"), "(pointer) % 16 == 0", "(pointer) % 1 == 0", MEMORY),
    "no tail": (*(PLAIN, "", "mix.cuh"), "lane < a.rest", "false", WRONG),
    "one shuffle short": (*(PLAIN, "", "mix_types.cuh"), "distance > 0;", "distance > 1;", WRONG),
    "weights in the wrong order": (
        *(PLAIN, "", "mix.cuh"),
        "weight[c] = weight_of<A>(a.w, first + c, a.groups, g);",
        "weight[c] = weight_of<A>(a.w, C - 1 - c, a.groups, g);",
        WRONG,
    ),
    "the group of the next element": (*(PLAIN, "", "mix.cuh"), "a.by_inner.of(i)", "a.by_inner.of(i + 1)", WRONG),
    "the group of another strip": (*(PLAIN, "", "mix.cuh"), "of(left + j % kWidth)", "of(j % kWidth)", WRONG),
}
MORE_MUTATIONS = {
    "no barrier before the sums of columns are overwritten": (
        *(THREAD, COLUMNS, "mix.cuh"),
        "__syncthreads();  // the sums before these have been read",
        "",
        RACE,
    ),
    "no barrier before the next output": (
        *(THREAD, TILES, "reduce.cuh"),
        "__syncthreads();  // before the next output overwrites the sums",
        "",
        RACE,
    ),
    "the last chunk is not cut": (
        *(ADDRESS, COLUMNS, "mix.cuh"),
        "(chunk + 1) * a.chunk * a.columns < a.n ?",
        "true ?",
        f"{MEMORY}|{WRONG}",
    ),
    "runs not skipped": (*(PLAIN, "", "mix.cuh"), " + a.by_run.of(v) * (a.groups - 1) * a.inner", "", WRONG),
    "sums of another tile": (
        *(PLAIN, "", "mix.cuh"),
        "* a.groups * a.tiles + t] = total",
        "* a.groups * a.tiles + tile] = total",
        WRONG,
    ),
    "one line reduced again and again": (*(PLAIN, "", "reduce.cuh"), "a.by_run.of(j) * skip", "0 * skip", WRONG),
    "rounded to zero": (*(PLAIN, "", "mix_types.cuh"), "bits += 0x7fffu + ((bits >> 16) & 1u);", "", WRONG),
    "ties rounded up": (*(PLAIN, "", "mix_types.cuh"), "0x7fffu + ((bits >> 16) & 1u)", "0x8000u", WRONG),
    "vectors across groups": (*(ADDRESS, "", "mix.cu"), "(s.groups == 1 || p.inner %", "(true || p.inner %", MEMORY),
    "a workspace for one group": (
        *(ADDRESS, "", "mix.cu"),
        "s.k * p.lines * s.groups * p.run * s",
        "s.k * p.lines * p.run * s",
        MEMORY,
    ),
}

# the same for taps.cu
TAPS_MUTATIONS = {
    "no barrier before the window is read": (
        *(THREAD, "0", "taps.cuh"),
        "weight[t] = w[t];\n        __syncthreads();",
        "weight[t] = w[t];",
        RACE,
    ),
    "no barrier before y overwrites the window": (
        *(THREAD, "0", "taps.cuh"),
        "__syncthreads();  // the window has been read: it holds the tile of y now",
        "",
        RACE,
    ),
    "no barrier before y is read": (
        *(THREAD, "0", "taps.cuh"),
        "window[threadIdx.x + e * kThreads] = sum[e];\n            __syncthreads();",
        "window[threadIdx.x + e * kThreads] = sum[e];",
        RACE,
    ),
    "a tap too many": (*(ADDRESS, "", "taps.cuh"), "lane == 0 && t < a.num_taps", "lane == 0", f"{MEMORY}|{WRONG}"),
    "a column right of the image": (
        *(ADDRESS, "", "taps.cuh"),
        "column < a.width) unpack",
        "column <= a.width) unpack",
        f"{MEMORY}|{WRONG}",
    ),
    "a row below the image": (
        *(ADDRESS, "", "taps.cuh"),
        "row < a.height && column >= 0",
        "row <= a.height && column >= 0",
        f"{MEMORY}|{WRONG}",
    ),
    "the last chunk is not cut": (
        *(ADDRESS, "", "taps.cuh"),
        "(chunk + 1) * a.chunk < a.per_channel ? (chunk + 1) * a.chunk : a.per_channel;\n        A sum[kWarpTaps]",
        "(chunk + 1) * a.chunk;\n        A sum[kWarpTaps]",
        f"{MEMORY}|{WRONG}",
    ),
    "offsets not turned": (*(PLAIN, "", "taps.cu"), "turned ? -x : x", "x", WRONG),
    "what is beside a row counts": (*(PLAIN, "", "taps.cuh"), "if (column >= tile.columns) continue;", "", WRONG),
    "taps that are far apart wrap around": (
        *(PLAIN, "", "taps.cuh"),
        "beside < 0 || beside >= a.width) continue;\n            sum",
        "beside < 0) continue;\n            sum",
        WRONG,
    ),
}
MORE_TAPS_MUTATIONS = {
    "no barrier before the window is overwritten": (
        *(THREAD, "0", "taps.cuh"),
        "__syncthreads();  // the window before this one has been read\n        fill",
        "fill",
        RACE,
    ),
    "no barrier before the next tile of dw": (
        *(THREAD, "10", "taps.cuh"),
        "__syncthreads();  // the window before this one has been read\n            fill",
        "fill",
        RACE,
    ),
    "windows for scalars only": (
        *(ADDRESS, "", "taps.cu"),
        "low_x = -up(-low_x, vector) * vector;",
        "",
        f"{MEMORY}|{WRONG}",
    ),
    "weights of another channel": (
        *(PLAIN, "", "taps.cuh"),
        "(plane - a.by_channels.of(plane) * a.channels) * a.num_taps;\n        __sync",
        "a.by_channels.of(plane) * a.num_taps;\n        __sync",
        f"{MEMORY}|{WRONG}",
    ),
    "a workspace for one tap": (
        *(ADDRESS, "", "taps.cu"),
        "s.channels * s.num_taps * args.chunks",
        "s.channels * args.chunks",
        MEMORY,
    ),
}
TAPS_MUTATIONS = {f"taps, {name}": mutation for name, mutation in TAPS_MUTATIONS.items()}
MORE_TAPS_MUTATIONS = {f"taps, {name}": mutation for name, mutation in MORE_TAPS_MUTATIONS.items()}
ALL_MUTATIONS = {**MUTATIONS, **MORE_MUTATIONS, **TAPS_MUTATIONS, **MORE_TAPS_MUTATIONS}


def job(name):
    if name in SOUND or name in SLOW:
        return {**SOUND, **SLOW}[name]
    options, first, file, old, new, _ = ALL_MUTATIONS[name]
    driver = TAPS if name.startswith("taps, ") else Job.driver
    return Job(options, ("1", first) if first else (), (file, old, new), driver=driver)


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """The jobs of the selected tests, two at a time."""
    items = [item for item in request.session.items if item.path == Path(__file__)]
    names = [item.callspec.params["name"] for item in items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(job(name), tmp_path_factory.mktemp("driver")) for name in names}
        pool.shutdown(cancel_futures=True)


def slow(names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", [*SOUND, *slow(SLOW)])
def test_kernels_agree_with_float64(outcomes, name):
    ran = outcomes[name].result()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout.split()[0]) >= 25


QUICK_MUTATIONS = ("no barrier before the sums of columns are read", "taps, a column right of the image")


@pytest.mark.parametrize(
    "name", [*QUICK_MUTATIONS, *slow(name for name in ALL_MUTATIONS if name not in QUICK_MUTATIONS)]
)
def test_a_broken_kernel_is_caught(outcomes, name):
    ran = outcomes[name].result()
    assert ran.returncode != 0, "nothing noticed"
    assert re.search(ALL_MUTATIONS[name][-1], ran.stdout + ran.stderr), ran.stdout + ran.stderr
