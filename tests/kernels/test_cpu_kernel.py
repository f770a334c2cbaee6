"""``kernels/mix.cpp`` against loops in double, in every vector width, under sanitizers; and that this would notice what is wrong."""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "kernels" / "mix.cpp"
DRIVER = Path(__file__).with_name("cpu_driver.cpp")
WARNINGS = ("-Wall", "-Wextra", "-Werror")
OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", f"-I{SOURCE.parent}", *WARNINGS)
NARROW = "-DNAS_MIX_VECTOR_BYTES=16"  # one compilation instead of three
NUM_CASES = 150

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def build(folder, *options, source=SOURCE):
    program = folder / "driver"
    subprocess.run(["g++", *OPTIONS, *options, str(DRIVER), str(source), "-o", str(program)], check=True)
    return program


def check(program, threads=1, num_cases=NUM_CASES, **environment):
    words = [str(program), "check", str(threads), str(num_cases)]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment})


@functools.cache
def bits(width, threads, folder):
    """The hash of all results; the random cases are the same for every width and number of threads."""
    program = folder / f"width{width}" / "driver"
    if not program.exists():
        program.parent.mkdir()
        build(program.parent, f"-DNAS_MIX_VECTOR_BYTES={width}", "-fopenmp")
    result = check(program, threads)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("widths")


@pytest.mark.parametrize("width", [16, 32, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_agrees_with_double_and_has_the_same_bits_for_every_vector_width_and_number_of_threads(width, threads, folder):
    # where the processor has no wider vectors, the widths are one and the same
    assert bits(width, threads, folder) == bits(16, 1, folder)


def test_three_threads_and_no_openmp_have_the_same_bits_too(folder, tmp_path):
    assert bits(16, 3, folder) == bits(16, 1, folder)
    assert check(build(tmp_path, NARROW, "-Wno-unknown-pragmas")).stdout.split()[0] == bits(16, 1, folder)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux: memory that is mapped over and over")
def test_indices_beyond_31_bits(folder):
    bits(64, 1, folder)
    result = subprocess.run([folder / "width64" / "driver", "huge"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path):
    program = build(tmp_path, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fopenmp", NARROW)
    result = check(program, threads=2, num_cases=60)
    assert result.returncode == 0, result.stderr


# OpenMP's barriers are invisible to it, std::thread's join is not
THREAD_OPTIONS = ("-g", "-fsanitize=thread", "-DNAS_MIX_STD_THREADS", "-Wno-unknown-pragmas", "-pthread", NARROW)


def test_thread_sanitizer_finds_nothing(tmp_path):
    result = check(build(tmp_path, *THREAD_OPTIONS), threads=3, num_cases=60)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("this kernel's address layout is not one that ThreadSanitizer knows")
    assert result.returncode == 0, result.stderr


def mutant(tmp_path, before, after):
    """The sources with one change."""
    paths = [*SOURCE.parent.glob("*.h"), SOURCE]
    changed = [path for path in paths if before in path.read_text()]
    assert len(changed) == 1 and changed[0].read_text().count(before) == 1, f"{before!r} must be there once"
    for path in paths:
        (tmp_path / path.name).write_text(path.read_text().replace(before, after))
    return tmp_path / SOURCE.name


MUTATIONS = {
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


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_wrong_kernel_is_noticed(name, tmp_path):
    program = build(tmp_path, NARROW, "-fopenmp", source=mutant(tmp_path, *MUTATIONS[name]))
    assert check(program, threads=2).returncode != 0


def test_a_race_is_noticed(tmp_path):
    source = mutant(tmp_path, "slot = part * tasks.num_inner + piece;", "slot = part * tasks.num_inner;")
    result = check(build(tmp_path, *THREAD_OPTIONS, source=source), threads=3, num_cases=20, TSAN_OPTIONS="exitcode=66")
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("this kernel's address layout is not one that ThreadSanitizer knows")
    assert "data race" in result.stderr


@pytest.mark.parametrize("compiler", ["clang++", "aarch64-linux-gnu-g++"])
def test_other_compilers_take_it(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    subprocess.run(
        [compiler, *OPTIONS, "-fPIC", "-Wno-unknown-pragmas", "-c", SOURCE, "-o", tmp_path / "mix.o"], check=True
    )
