"""The build, with a compiler that only pretends on our own sources: what is compiled, with which flags, when again."""

from __future__ import annotations

import os
import runpy
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastconv import _native

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="the sources are not beside the tests")
setuptools = pytest.importorskip("setuptools", minversion="77")
posix = pytest.mark.skipif(os.name != "posix", reason="the pretending compiler is a shell script")

# The probes go to the real compiler; of csrc/ only the command line is noted.
PRETENDER = """#!/bin/sh
case " $* " in {refuse}) echo "refused" >&2; exit 1;; esac
case " $* " in
*" csrc/"*)
    echo "$*" >> "{log}"
    while [ "$1" != -o ]; do shift; done
    mkdir -p "$(dirname "$2")" && : > "$2";;
*) exec {real} "$@";;
esac
"""


class Tree:
    """A copy of what the build reads, and the pretending compiler."""

    def __init__(self, folder: Path, real: str = "cc", refuse: str = "--nothing") -> None:
        if shutil.which(real) is None:
            pytest.skip(f"{real} is not installed")
        self.root = folder / "tree"
        shutil.copytree(ROOT / "csrc", self.root / "csrc")
        (self.root / "fastconv").mkdir()
        for name in ("setup.py", "pyproject.toml", "LICENSE", "fastconv/__init__.py", "fastconv/runtime.py"):
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "README.md").touch()
        self.log = folder / "log"
        self.compiler = folder / "pretender"
        self.compiler.write_text(PRETENDER.format(refuse=f'*" {refuse} "*', log=self.log, real=real))
        self.compiler.chmod(self.compiler.stat().st_mode | stat.S_IXUSR)

    def build(self) -> dict[str, list[str]]:
        """Builds the libraries; gives the flags of every source that was compiled, by its name."""
        self.log.write_text("")
        done = subprocess.run(
            [sys.executable, "setup.py", "build_clib"],
            cwd=self.root,
            env={**os.environ, "CC": str(self.compiler), "CFLAGS": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.messages = done.stdout + done.stderr
        assert done.returncode == 0, self.messages
        commands = [line.split() for line in self.log.read_text().splitlines()]
        return {next(word for word in words if word.startswith("csrc/"))[5:]: words for words in commands}


@posix
def test_each_source_once_with_its_flags(tmp_path: Path) -> None:
    compiled = Tree(tmp_path).build()
    sets = [name for name in compiled if name.startswith("isa_")]
    assert "isa_generic.c" in sets
    assert {path.name for path in (ROOT / "csrc").glob("*.c") if not path.name.startswith("isa_")} <= set(compiled)
    for name, flags in compiled.items():
        assert "-O3" in flags
        assert "-ffast-math" not in flags
        assert ("-mavx2" in flags) == (name == "isa_avx2.c")
        assert ("-mavx512f" in flags) == (name == "isa_avx512.c")
    have = {flag for flag in compiled["isa.c"] if flag.startswith("-DFC_HAVE_")}
    assert have == {f"-DFC_HAVE_{name[4:-2].upper()}=1" for name in sets if name != "isa_generic.c"}
    # What this very build of fastconv says it has is among what would be built now.
    assert set(_native.isa_available()) <= {name[4:-2] for name in sets}


@posix
def test_an_edit_compiles_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    everything = set(tree.build())
    assert tree.build() == {}
    clock = time.time()
    for path in (tree.root / "csrc" / "core.h", next((tree.root / "csrc" / "kernels").glob("*.inc"))):
        clock += 10
        os.utime(path, (clock, clock))
        assert set(tree.build()) == everything, path
        for compiled in (tree.root / "build").rglob("*.[oa]"):  # what was built just now is newer than that
            os.utime(compiled, (clock + 5, clock + 5))
    assert tree.build() == {}


@posix
def test_other_flags_compile_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    everything = set(tree.build())
    tree.compiler.write_text(tree.compiler.read_text().replace("--nothing", "-fopenmp"))
    assert set(tree.build()) == everything
    assert tree.build() == {}


@posix
def test_without_openmp(tmp_path: Path) -> None:
    tree = Tree(tmp_path, refuse="-fopenmp")
    compiled = tree.build()
    assert not any("-fopenmp" in flags for flags in compiled.values())
    assert "the compiler has no OpenMP: fastconv will run on one thread" in tree.messages


@posix
def test_a_compiler_that_does_not_know_an_instruction_set(tmp_path: Path) -> None:
    tree = Tree(tmp_path, refuse="-mavx512f")
    compiled = tree.build()
    assert "isa_avx512.c" not in compiled
    assert "-DFC_HAVE_AVX512=1" not in compiled["isa.c"]


@posix
def test_the_target_decides_not_the_host(tmp_path: Path) -> None:
    compiled = Tree(tmp_path, real="aarch64-linux-gnu-gcc").build()
    assert {name for name in compiled if name.startswith("isa_")} == {"isa_generic.c", "isa_neon.c"}
    assert "-DFC_HAVE_NEON=1" in compiled["isa.c"]


@posix
def test_a_compiler_that_does_not_work(tmp_path: Path) -> None:
    tree = Tree(tmp_path, refuse="-c")
    with pytest.raises(AssertionError, match="needs a C compiler that works and has vector types: GCC or Clang"):
        tree.build()


@pytest.fixture
def build_script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of setup.py."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.chdir(ROOT)
    return runpy.run_path("setup.py")


def test_msvc_is_refused(build_script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    msvc = SimpleNamespace(compiler_type="msvc", initialize=lambda: None, cc="cl.exe")
    with pytest.raises(setuptools.errors.PlatformError, match="clang-cl on PATH"):
        build_script["prepare"](msvc)
    monkeypatch.setenv("CC", "cl")
    with pytest.raises(setuptools.errors.PlatformError, match="clang-cl on PATH"):
        build_script["prepare"](msvc)


@posix
def test_clang_cl_takes_msvcs_place(
    build_script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clang = tmp_path / "bin" / "clang-cl"
    clang.parent.mkdir()
    clang.write_text("#!/bin/sh\n")
    clang.chmod(0o755)
    monkeypatch.setenv("PATH", str(clang.parent))
    monkeypatch.delenv("CC", raising=False)
    folders: list[str] = []
    msvc = SimpleNamespace(
        compiler_type="msvc",
        initialize=lambda: None,
        cc="cl.exe",
        compile_options=["/nologo", "/O2", "/GL"],
        compile_options_debug=["/Od"],
        add_library_dir=folders.append,
    )
    build_script["prepare"](msvc)
    assert msvc.cc == str(clang)
    assert msvc.compile_options == ["/nologo", "/O2"]
    assert folders == [str(tmp_path / "lib")]
    assert build_script["flags_for"](msvc, ["-O3", "-mavx2"]) == ["/clang:-O3", "-mavx2"]


def test_the_source_distribution_has_everything(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0 or not tracked.stdout:
        pytest.skip("not a checkout of the repository")
    files = [name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()]
    for name in files:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "tree" / name)
    (tmp_path / "tree" / "README.md").touch()
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=tmp_path / "tree", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    left_out = {name for name in files if name not in packed}
    assert {name for name in left_out if not name.startswith((".github/", ".gitignore"))} == set()


def test_the_module_shows_nothing_but_its_entry() -> None:
    nm = shutil.which("nm")
    if nm is None or not sys.platform.startswith("linux"):
        pytest.skip("reads the symbols of an ELF file with nm")
    done = subprocess.run([nm, "-D", "--defined-only", _native.__file__], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in done.stdout.splitlines()} - {"_init", "_fini"} == {"PyInit__native"}
