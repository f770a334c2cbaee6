"""The CPU kernels against loops in double, in every vector width, under sanitizers; and that this would notice what is wrong."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", f"-I{KERNELS}", *WARNINGS)
NARROW = "-DNAS_MIX_VECTOR_BYTES=16"  # one compilation instead of three
NUM_CASES = 150
# the operations: the driver of each, kernels/<operation>.cpp being its source; and headers that are of others only
DRIVERS = {"mix": "cpu_driver.cpp", "taps": "taps_driver.cpp"}
FOREIGN = {"mix": ("taps.h", "taps_shape.h", "taps_tiles.h"), "taps": ("mix_loops.h",)}

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
each_operation = pytest.mark.parametrize("operation", DRIVERS)


def build(operation, folder, *options, sources=KERNELS):
    program = folder / "driver"
    driver = Path(__file__).with_name(DRIVERS[operation])
    command = ["g++", f"-I{sources}", *OPTIONS, *options, driver, sources / f"{operation}.cpp", "-o", program]
    subprocess.run(command, check=True)
    return program


def check(program, threads=1, num_cases=NUM_CASES, **environment):
    words = [str(program), "check", str(threads), str(num_cases)]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})


@functools.cache
def bits(operation, width, threads, folder):
    """The hash of all results; the random cases are the same for every width and number of threads."""
    program = folder / f"{operation}{width}" / "driver"
    if not program.exists():
        program.parent.mkdir()
        build(operation, program.parent, f"-DNAS_MIX_VECTOR_BYTES={width}", "-fopenmp")
    result = check(program, threads)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("widths")


@each_operation
@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_agrees_with_double_and_has_the_same_bits_for_every_vector_width_and_number_of_threads(
    operation, width, threads, folder
):
    # where the processor has no wider vectors, the widths are one and the same
    assert bits(operation, width, threads, folder) == bits(operation, 16, 1, folder)


@each_operation
def test_three_threads_and_no_openmp_have_the_same_bits_too(operation, folder, tmp_path):
    assert bits(operation, 16, 3, folder) == bits(operation, 16, 1, folder)
    program = build(operation, tmp_path, NARROW, "-Wno-unknown-pragmas")
    assert check(program).stdout == bits(operation, 16, 1, folder)


@pytest.mark.slow
@each_operation
@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux: memory that is mapped over and over")
def test_indices_beyond_31_bits(operation, folder):
    bits(operation, 64, 1, folder)
    result = subprocess.run([folder / f"{operation}64" / "driver", "huge"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@each_operation
def test_address_and_undefined_behaviour_sanitizers_find_nothing(operation, tmp_path):
    options = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fopenmp", NARROW)
    result = check(build(operation, tmp_path, *options), threads=2, num_cases=60)
    assert result.returncode == 0, result.stderr


# OpenMP's barriers are invisible to it, std::thread's join is not
THREAD_OPTIONS = ("-g", "-fsanitize=thread", "-DNAS_MIX_STD_THREADS", "-Wno-unknown-pragmas", "-pthread", NARROW)


def check_races(program, num_cases):
    result = check(program, threads=3, num_cases=num_cases, TSAN_OPTIONS="exitcode=66")
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("this kernel's address layout is not one that ThreadSanitizer knows")
    return result


@pytest.mark.slow
@each_operation
def test_thread_sanitizer_finds_nothing(operation, tmp_path):
    result = check_races(build(operation, tmp_path, *THREAD_OPTIONS), num_cases=60)
    assert result.returncode == 0, result.stderr


def mutant(operation, tmp_path, before, after):
    """A folder with the sources, and one change."""
    headers = {path for path in KERNELS.glob("*.h") if path.name not in FOREIGN[operation]}
    paths = [*headers, KERNELS / f"{operation}.cpp"]
    changed = [path for path in paths if before in path.read_text()]
    assert len(changed) == 1 and changed[0].read_text().count(before) == 1, f"{before!r} must be there once"
    for path in paths:
        (tmp_path / path.name).write_text(path.read_text().replace(before, after))
    return tmp_path


MIX_MUTATIONS = {
    "the last element of a run is left out of y": ("for (; i < count; i++)", "for (; i + 1 < count; i++)"),
    "the first group's weights for all": (
        "forward_run<T, BYTES, K, VARY>(job, job.w + g,",
        "forward_run<T, BYTES, K, VARY>(job, job.w,",
    ),
    "a slot is not added": ("slot < num_slots; slot++", "slot < num_slots - 1; slot++"),
    "slots are not cleared": ("partial[k * t.groups + g] = 0", "partial[k * t.groups + g] += 0"),
    "half of the lanes is not added": ("half = count / 2; half > 0", "half = count / 2; half > 1"),
    "halves of a unit are rounded up": ("0x7fffu + ((word >> 16) & 1u)", "0x8000u"),
    "subnormal float16 are read as normal ones": ("rest < 0x0400u", "rest < 0x0000u"),
    "a gradient is written where none is wanted": ("K || (job.dx && job.dx[k]) ?", "K || job.dx ?"),
    "the last task of a period is as long as the others": (
        "smaller(group_begin + tasks.step_groups, tasks.groups)",
        "group_begin + tasks.step_groups",
    ),
    "the last thread's tasks end early": ("count * (number + 1) / total", "count / total * (number + 1)"),
}
TAPS_MUTATIONS = {
    "the last tap is left out": (
        "t < num_taps; t++) {\n        const Acc<T> weight",
        "t + 1 < num_taps; t++) {\n        const Acc<T> weight",
    ),
    "a row above the image is read": ("top + r >= 0 &&", "top + r >= -1 &&"),
    "a column right of the image is read": ("smaller(tiles.width - left,", "smaller(tiles.width - left + 1,"),
    "the gradient of the input does not turn the offsets": (
        "place(taps, tiles, -1, turned)",
        "place(taps, tiles, 1, turned)",
    ),
    "rows of a tile beyond the image": ("smaller(tiles.rows, tiles.height - top)", "tiles.rows"),
    "a pack beyond the row is stored": (
        "memcpy(y + u * below, values, size_t(count) * sizeof(T))",
        "memcpy(y + u * below, values, sizeof(values))",
    ),
    "what is beside the row counts": ("l < rest; l++) kept", "l < lanes; l++) kept"),
    "the last chunk has a tile of the next image": ("batch * tiles.count());", "batch * tiles.count() + 1);"),
    "sums of the chunk before": ("std::memset(sums, 0,", "if (task == first) std::memset(sums, 0,"),
    "taps that meet the image are numbered anew": ("slot[taps.number[t]] =", "slot[t] ="),
    "an offset that just meets the image does not": ("dx >= width) continue", "dx >= width - 1) continue"),
    "weights of the next image": ("plane % job.channels * job.num_taps", "plane * job.num_taps"),
}
MUTATIONS = {
    **{name: ("mix", *mutation) for name, mutation in MIX_MUTATIONS.items()},
    **{name: ("taps", *mutation) for name, mutation in TAPS_MUTATIONS.items()},
}


QUICK_MUTATIONS = ("a slot is not added", "the gradient of the input does not turn the offsets")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK_MUTATIONS)) for name in MUTATIONS]
)
def test_a_wrong_kernel_is_noticed(name, tmp_path):
    operation, before, after = MUTATIONS[name]
    sources = mutant(operation, tmp_path, before, after)
    assert check(build(operation, tmp_path, NARROW, "-fopenmp", sources=sources), threads=2).returncode != 0


RACES = {
    "mix": ("slot = part * tasks.num_inner + piece;", "slot = part * tasks.num_inner;"),
    "taps": ("windows + thread * tiles.elements", "windows + 0 * thread"),
}


@pytest.mark.slow
@each_operation
def test_a_race_is_noticed(operation, tmp_path):
    sources = mutant(operation, tmp_path, *RACES[operation])
    result = check_races(build(operation, tmp_path, *THREAD_OPTIONS, sources=sources), num_cases=20)
    assert "data race" in result.stderr


@each_operation
@pytest.mark.parametrize("compiler", ["clang++", "aarch64-linux-gnu-g++"])
def test_other_compilers_take_it(operation, compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    source = KERNELS / f"{operation}.cpp"
    command = [compiler, *OPTIONS, "-fPIC", "-Wno-unknown-pragmas", "-c", source, "-o", tmp_path / "object.o"]
    subprocess.run(command, check=True)
