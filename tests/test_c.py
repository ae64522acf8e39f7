"""The C library without Python: compiled with sanitizers, and for another processor."""

from __future__ import annotations

import ast
import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="the C sources are not beside the tests")


def build_constants() -> dict[str, Any]:
    """The flags of setup.py, which cannot be imported."""
    constants = {}
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):
                constants[node.targets[0].id] = ast.literal_eval(node.value)
    return constants


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, **options)


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def accepts(compiler: str, flags: Sequence[str], source: str = "") -> bool:
    """Whether the compiler makes a program with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.c"
        probe.write_text(f"{source}\nint main(void) {{ return 0; }}\n")
        return run(compiler, *flags, probe, "-o", probe.with_suffix("")).returncode == 0


@dataclass(frozen=True)
class Variant:
    """One way to build the C library."""

    compiler: str
    flags: tuple[str, ...] = ()
    kernel_level: str = "-O2"
    emulator: str | None = None


# Optimising instrumented kernels takes compilers minutes.
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
VARIANTS = {
    "gcc": Variant("gcc", kernel_level="-O0"),
    "gcc-sanitizers": Variant("gcc", SANITIZE, "-O0"),
    "clang-sanitizers": Variant("clang", SANITIZE, "-O0"),
    # Without OpenMP, whose synchronisation it does not know. What is left are our own locks and atomics.
    "gcc-threads": Variant("gcc", ("-fsanitize=thread",), "-O0"),
    "aarch64": Variant("aarch64-linux-gnu-gcc", ("-static",), emulator="qemu-aarch64"),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], tuple[list[str], list[Path]]]:
    """Compiles the C library, once per instruction set as setup.py does: gives flags and objects for programs."""

    @functools.cache
    def build(variant: Variant) -> tuple[list[str], list[Path]]:
        compiler, folder, constants = variant.compiler, tmp_path_factory.mktemp("library"), build_constants()
        flags = [*constants["FLAGS"], "-g", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", "-pthread", *variant.flags]
        if variant != VARIANTS["gcc-threads"] and accepts(compiler, [*variant.flags, "-fopenmp"]):
            flags.append("-fopenmp")

        def compile_one(source: Path, *more: str) -> Path:
            target = folder / f"{source.stem}.o"
            done = run(compiler, *flags, *more, "-c", source, "-o", target)
            assert done.returncode == 0, done.stderr
            return target

        jobs: list[tuple[Any, ...]] = []

        have = []
        for isa, (architecture, isa_flags, _) in constants["ISAS"].items():
            if architecture and not accepts(compiler, isa_flags, f"#ifndef {architecture}\n#error no\n#endif\n"):
                continue
            if architecture:
                have.append(f"-DFC_HAVE_{isa.upper()}=1")
            jobs.append((CSRC / f"isa_{isa}.c", *isa_flags, variant.kernel_level))
        for source in sorted(CSRC.glob("*.c")):
            if source.stem.removeprefix("isa_") not in constants["ISAS"]:
                jobs.append((source, *have, "-O1"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return flags, list(pool.map(lambda job: compile_one(*job), jobs))

    return build


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_sums_stay_in_registers(compiler: str, tmp_path: Path) -> None:
    """A compiler that unrolls too late stores all of them at every step, and takes two to three times as long."""
    constants = build_constants()
    architecture, isa_flags, _ = constants["ISAS"]["avx2"]
    if not accepts(need(compiler), isa_flags, f"#ifndef {architecture}\n#error no\n#endif\n"):
        pytest.skip(f"{compiler} does not compile for AVX2")
    tables = ("rows", "panel", "kept_rows", "kept_panel", "indirect", "wide_rows", "beside")
    source = tmp_path / "product.c"
    source.write_text(
        (CSRC / "isa_avx2.c")
        .read_text()
        .replace(
            '#include "kernels/kernels.inc"',
            '#include "core.h"\n'
            "#define REAL float\n#define REAL_BYTES 4\n#define NAME(op) FC_CAT(FC_CAT(fc_, op), _f32_avx2)\n"
            '#include "kernels/lanes.inc"\n#include "kernels/product.inc"\n'
            f"const void *const tables[] = {{{', '.join(f'NAME(table_{table})' for table in tables)}}};\n",
        )
    )
    target = source.with_suffix(".s")
    flags = [*constants["FLAGS"], *isa_flags, f"-I{CSRC}", "-S", source, "-o", target]
    done = run(compiler, *flags)
    assert done.returncode == 0, done.stderr
    functions = dict(
        re.findall(r"^(fc_tiles?_\w+):.*?\n(.*?)\.cfi_endproc", target.read_text(), re.MULTILINE | re.DOTALL)
    )
    assert len(functions) >= 6 * (len(tables) - 1) + 3
    for name, code in functions.items():
        if name.endswith("_1"):  # of a single row: few sums, of which clang stores some all the same
            continue
        stores = re.findall(r"vmovap[sd]\s+%ymm\d+, .*\(%r[sb]p\)", code)
        assert len(stores) < 6, (name, stores)


def run_program(library: Any, variant: Variant, folder: Path, name: str, *arguments: str) -> str:
    """Runs tests/c/<name>.c, linked with that variant of the library, and returns what it prints."""
    compiler = need(variant.compiler)
    command = [need(variant.emulator)] if variant.emulator else []
    if not accepts(compiler, variant.flags):
        pytest.skip(f"{compiler} cannot link with {' '.join(variant.flags)}")
    flags, objects = library(variant)
    binary = folder / name
    done = run(compiler, *flags, "-O1", ROOT / "tests" / "c" / f"{name}.c", *objects, "-lm", "-o", binary)
    assert done.returncode == 0, done.stderr
    # OpenMP never gives its pool of threads back.
    (folder / "leaks").write_text("leak:libgomp\nleak:libomp\n")
    environment = {**os.environ, "LSAN_OPTIONS": f"suppressions={folder / 'leaks'}:print_suppressions=0"}
    done = run(*command, binary, *arguments, env=environment)
    if "ThreadSanitizer: unexpected memory mapping" in done.stderr:
        pytest.skip("this thread sanitizer does not know the kernel's layout of the address space")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok"), done.stdout
    return done.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_runtime(library: Any, variant: str, tmp_path: Path) -> None:
    # Neither the sanitizers nor the emulator survive a fork beside other threads for certain.
    arguments = [] if variant == "gcc" else ["nofork"]
    run_program(library, VARIANTS[variant], tmp_path, "test_runtime", *arguments)


@pytest.mark.parametrize("variant", ["gcc-sanitizers", "clang-sanitizers", "aarch64"])
def test_convolutions(library: Any, variant: str, tmp_path: Path) -> None:
    problems = 250 if variant == "aarch64" else 1500  # an emulator takes its time
    output = run_program(library, VARIANTS[variant], tmp_path, "test_core", str(problems))
    assert variant != "aarch64" or " neon" in output


@pytest.mark.parametrize("variant", ["gcc-sanitizers", "clang-sanitizers", "aarch64"])
def test_windows(library: Any, variant: str, tmp_path: Path) -> None:
    run_program(library, VARIANTS[variant], tmp_path, "test_windows", "150")


@pytest.mark.parametrize("variant", ["gcc-sanitizers", "clang-sanitizers", "aarch64"])
def test_operators(library: Any, variant: str, tmp_path: Path) -> None:
    run_program(library, VARIANTS[variant], tmp_path, "test_operators", "300")


def cpu_count(folder: Path, files: dict[str, str], omp_num_threads: str | None = None) -> int:
    """What fc_default_threads answers where the control groups' files are those given, by path under `folder`."""
    compiler = need("gcc")
    if not accepts(compiler, ["-fopenmp"]):
        pytest.skip("gcc has no OpenMP")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    main = folder / "main.c"
    main.write_text('#include "fastconv.h"\nint main(void) { return fc_default_threads(); }\n')
    where = [f'-DFC_CGROUP_SELF="{folder}/self"', f'-DFC_CGROUP_ROOT="{folder}/sys"', f"-I{CSRC}", "-std=gnu11"]
    done = run(compiler, *where, "-fopenmp", CSRC / "thread.c", main, "-o", folder / "main")
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    if omp_num_threads is not None:
        environment["OMP_NUM_THREADS"] = omp_num_threads
    return run(folder / "main", env=environment).returncode


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="control groups are Linux's")
class TestDefaultThreads:
    """A group's quota is tested at 1 processor or fewer, so that any machine with 2 shows it."""

    @pytest.fixture(autouse=True)
    def processors(self) -> int:
        count = len(os.sched_getaffinity(0))
        if count < 2:
            pytest.skip("needs two processors")
        return count

    def test_unlimited(self, tmp_path: Path, processors: int) -> None:
        assert cpu_count(tmp_path, {}) == processors
        files = {"self": "0::/\n", "sys/cpu.max": "max 100000\n"}
        assert cpu_count(tmp_path, files) == processors
        files = {"self": "4:cpu,cpuacct:/\n", "sys/cpu/cpu.cfs_quota_us": "-1\n", "sys/cpu/cpu.cfs_period_us": "100000"}
        assert cpu_count(tmp_path, files) == processors

    def test_v2(self, tmp_path: Path) -> None:
        assert cpu_count(tmp_path, {"self": "0::/\n", "sys/cpu.max": "50000 100000\n"}) == 1

    def test_v2_rounds_up(self, tmp_path: Path) -> None:
        assert cpu_count(tmp_path, {"self": "0::/\n", "sys/cpu.max": "100001 100000\n"}) == 2

    def test_v2_parent_is_tighter(self, tmp_path: Path) -> None:
        files = {
            "self": "0::/a/b\n",
            "sys/cpu.max": "max 100000\n",
            "sys/a/cpu.max": "100000 100000\n",
            "sys/a/b/cpu.max": "900000 100000\n",
        }
        assert cpu_count(tmp_path, files) == 1

    def test_v2_path_of_the_host(self, tmp_path: Path) -> None:
        assert cpu_count(tmp_path, {"self": "0::/docker/0123abc\n", "sys/cpu.max": "100000 100000\n"}) == 1

    def test_v1(self, tmp_path: Path) -> None:
        files = {
            "self": "5:memory:/x\n4:cpu,cpuacct:/x\n",
            "sys/cpu,cpuacct/x/cpu.cfs_quota_us": "20000\n",
            "sys/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
        }
        assert cpu_count(tmp_path, files) == 1

    @pytest.mark.parametrize("text", ["", "nonsense", "0::", "::::\n", "0::/\n1:cpu"])
    def test_broken_files(self, tmp_path: Path, text: str, processors: int) -> None:
        assert cpu_count(tmp_path, {"self": text, "sys/cpu.max": "max\n"}) == processors

    @pytest.mark.parametrize("text", ["1", " 1 ", "1,4"])
    def test_environment(self, tmp_path: Path, text: str) -> None:
        assert cpu_count(tmp_path, {}, text) == 1

    @pytest.mark.parametrize("text", ["", "0", "-1", "x", "1000000"])
    def test_environment_that_does_not_limit(self, tmp_path: Path, text: str, processors: int) -> None:
        assert cpu_count(tmp_path, {}, text) == processors

    def test_affinity(self, tmp_path: Path) -> None:
        mask = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(mask)})
        try:
            assert cpu_count(tmp_path, {}) == 1
        finally:
            os.sched_setaffinity(0, mask)
