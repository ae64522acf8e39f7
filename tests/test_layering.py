"""Who may see whom (CONTRIBUTING, rules 1 and 2), read from the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fastconv as fc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastconv"
CSRC = ROOT / "csrc"

# From the bottom up: a module imports from its own level or from below. Where a new one stands is to be decided here.
LEVELS = [
    {"_native"},
    {"_library"},
    {"devices", "runtime"},
    {"arrays", "geometry", "streams", "tuning"},
    {"backends"},
    {
        "activation",
        "adaptive",
        "casting",
        "conv",
        "dense",
        "joining",
        "loss",
        "normalization",
        "pooling",
        "rectifiers",
        "regularization",
        "special_pooling",
    },
    {"columns", "convolve", "local", "separable", "transposed"},
    {"gradients", "init"},
    {"layers", "containers"},
    {"models", "rewrite"},
    {"data", "files", "metrics", "optim", "summaries", "wisdom"},
    {"checkpoints", "history"},
    {"train"},
    {"benchmark", "plot"},
    {"jobs"},
    {"cli"},
    {"__init__", "__main__"},
]
# Within a level some are below others all the same.
FORBIDDEN = {("layers", "containers")}
# Those who call C, and those who choose who computes.
MAY_SEE = {
    "_native": {"_library"},
    "_library": {"arrays", "backends", "runtime"},
    "backends": {
        "activation",
        "adaptive",
        "casting",
        "columns",
        "conv",
        "convolve",
        "dense",
        "joining",
        "local",
        "loss",
        "normalization",
        "optim",
        "pooling",
        "rectifiers",
        "regularization",
        "separable",
        "special_pooling",
        "transposed",
    },
}
LEVEL_OF = {module: level for level, modules in enumerate(LEVELS) for module in modules}


def imported(source: str, package: str, siblings: set[str]) -> set[str]:
    """Top-level modules of fastconv that a source imports, wherever in it, `package` being the one it lies in."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "fastconv":
                # A name that is no module of the package was taken from the package itself.
                found.add(parts[1] if len(parts) > 1 and parts[1] in siblings else "__init__")
    return found


def python_violations(module: str, imports: set[str]) -> list[str]:
    if module not in LEVEL_OF:
        return [f"{module}: not in LEVELS"]
    wrong = []
    for other in sorted(imports - {module}):
        if other not in LEVEL_OF:
            wrong.append(f"{module} imports {other}: not in LEVELS")
        elif LEVEL_OF[other] > LEVEL_OF[module] or (module, other) in FORBIDDEN:
            wrong.append(f"{module} imports {other}, which stands above it")
        elif other in MAY_SEE and module not in MAY_SEE[other]:
            wrong.append(f"{module} imports {other}, which only {', '.join(sorted(MAY_SEE[other]))} may")
    return wrong


def python_modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def top_level(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


SIBLINGS = {top_level(path) for path in python_modules()} | {"_native"}


@pytest.mark.parametrize("path", python_modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_python_imports(path: Path) -> None:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert python_violations(top_level(path), imported(path.read_text(encoding="utf-8"), package, SIBLINGS)) == []


@pytest.mark.parametrize(
    ("module", "package", "source"),
    [
        ("conv", "fastconv", "from fastconv.layers import Conv2d"),
        ("conv", "fastconv", "from fastconv import _native"),
        ("conv", "fastconv", "from fastconv._library import _native"),
        ("runtime", "fastconv", "from fastconv import _native"),
        ("conv", "fastconv", "def f():\n    import fastconv._native"),
        ("layers", "fastconv", "from fastconv.backends import cpu"),
        ("layers", "fastconv", "from .backends.cpu import conv_plan"),
        ("layers", "fastconv", "from fastconv.containers import Sequential"),
        ("backends", "fastconv.backends", "from ..conv import conv2d"),
        ("backends", "fastconv.backends", "from .. import models"),
        ("geometry", "fastconv", "import fastconv"),
        ("runtime", "fastconv", "from fastconv import __version__"),
        ("novelty", "fastconv", "import numpy"),
        ("cli", "fastconv", "if 1:\n    from fastconv import _native as n"),
    ],
)
def test_python_violations_are_seen(module: str, package: str, source: str) -> None:
    siblings = SIBLINGS | {name for level in LEVELS for name in level}
    assert python_violations(module, imported(source, package, siblings)) != []


# ---- the public names -------------------------------------------------------------------------------------------


def test_stub_lists_the_public_names() -> None:
    """`__init__.pyi`, which type checkers read, has every public name from where `__init__.py` finds it."""
    stub = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            stub.update(dict.fromkeys((alias.name for alias in node.names), node.module))
    places = {
        name: "fastconv" if name in fc._MODULES else f"fastconv.{fc._MODULE_OF.get(name, 'runtime')}"
        for name in fc.__all__
    }
    assert stub == places
    assert len(fc.__all__) == len(set(fc.__all__))


def test_no_module_hides_a_function() -> None:
    """Importing a module makes it an attribute of the package, whatever stood there before."""
    assert SIBLINGS & set(fc.__all__) == set(fc._MODULES)


# ---- C ---------------------------------------------------------------------------------------------------------

OPENMP = re.compile(r"#\s*pragma\s+omp\b|\bomp_\w+\s*\(|<omp\.h>|\b_OPENMP\b")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def c_violations(path: str, source: str) -> list[str]:
    """What a C source, at `path` below csrc/, includes or names against the rules."""
    name = path.rpartition("/")[2]
    stub = re.fullmatch(r"isa_\w+\.c", name) is not None
    kernel = path.startswith("kernels/")
    wrong = []
    if name != "thread.c" and OPENMP.search(source):
        wrong.append(f"{path} names OpenMP, which is thread.c's alone")
    for bracket, header in INCLUDE.findall(source):
        inner = header.rpartition("/")[2]
        if inner.endswith(".inc"):
            allowed = stub or kernel
        elif kernel or stub:
            allowed = header in ("core.h", "../core.h")
        elif name == "fastconv.h":
            allowed = header in ("stddef.h", "stdint.h")
        elif name == "core.h":
            allowed = bracket == "<" or header == "fastconv.h"
        else:
            allowed = not re.match(r"Python\.h|numpy/|isa_", header)
        if not allowed:
            wrong.append(f"{path} includes {header}")
    return wrong


def c_sources() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in (".c", ".h", ".inc"))


@pytest.mark.parametrize("path", c_sources(), ids=lambda path: path.relative_to(CSRC).as_posix())
def test_c_includes(path: Path) -> None:
    assert c_violations(path.relative_to(CSRC).as_posix(), path.read_text(encoding="utf-8")) == []


def test_cython_sees_the_public_header_alone() -> None:
    source = (PACKAGE / "_native.pyx").read_text(encoding="utf-8")
    assert set(re.findall(r'cdef extern from "([^"]+)"', source)) == {"fastconv.h", "numpy/arrayobject.h"}
    assert not OPENMP.search(source)
    assert not re.search(r"\bprange\b", source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("conv.c", "#pragma omp parallel for\n"),
        ("conv.c", "int n = omp_get_max_threads();\n"),
        ("ref.c", "#ifdef _OPENMP\n#endif\n"),
        ("kernels/product.inc", "#include <immintrin.h>\n"),
        ("kernels/product.inc", '#include "conv.h"\n'),
        ("isa_avx2.c", '#include "conv.h"\n'),
        ("conv.c", '#include "kernels/product.inc"\n'),
        ("conv.c", "#include <Python.h>\n"),
        ("fastconv.h", '#include "core.h"\n'),
        ("core.h", '#include "conv.h"\n'),
    ],
)
def test_c_violations_are_seen(path: str, source: str) -> None:
    assert c_violations(path, source) != []
