"""Make docs/operators.md, the table of operators: ``python docs/make_operators.py [RUN.json ...]``.

Everything in it is read off the code: which functions there are (``fastconv.__all__``), what they do, take and cite
(docstrings and signatures), which dtypes they compute (each of the tests' cases is tried), and how fast they are beside
PyTorch (what ``python bench`` wrote: the files given, or all of runs/).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]
sys.path += [str(ROOT / "bench"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import test_half  # noqa: E402
from families import FAMILIES  # noqa: E402
from report import geometric_mean  # noqa: E402

import fastconv as fc  # noqa: E402
from fastconv.arrays import FLOATS, STORAGE  # noqa: E402
from fastconv.geometry import LAYOUTS  # noqa: E402

PAGE = Path(__file__).with_suffix("").with_name("operators.md")
# Headings, and the modules whose functions stand under them.
GROUPS = {
    "Convolution": ("conv", "transposed", "separable", "local", "convolve", "columns"),
    "Pooling": ("pooling", "adaptive", "special_pooling"),
    "Normalization and regularisation": ("normalization", "regularization"),
    "Activations": ("activation", "rectifiers"),
    "Fully connected": ("dense",),
    "Losses": ("loss",),
}
# Functions there that compute nothing of arrays.
NO_OPERATORS = {"algorithms", "explain"}
HEADER = ("Operator", "What it does", "Gradient", "Layouts", "Dtypes", "Source")
SPEEDS = ("Forward", "Gradient")

INTRODUCTION = """
All {} of them, by their names in `fastconv`. Dtypes of 16 bits are stored as such and computed in float32. A gradient
is a function of its own, or comes with the loss; `im2col` and `col2im` are each other's.

Speed is PyTorch's time, in the faster of its two layouts, over fastconv's: geometric mean (lowest) over the rows of
`python bench conv2d product memory family` that run the operator, in float32, channels first unless it says NHWC, on
one thread and on all. The gradients of a convolution count each for itself. Empty: not measured.
"""

Cell = dict[str, Any]


class Operator(NamedTuple):
    """A row: what the code says of a public function."""

    name: str
    summary: str
    gradient: str
    layouts: str
    dtypes: str
    source: str

    @property
    def cells(self) -> tuple[str, ...]:
        return (f"`{self.name}`", *self[1:])


def functions_of(modules: Iterable[str]) -> list[str]:
    """The operators of some modules, in the order in which these define them."""
    found = [name for name, module in fc._MODULE_OF.items() if module in modules and not name.endswith("_backward")]
    place = {module: i for i, module in enumerate(modules)}
    found.sort(key=lambda name: (place[fc._MODULE_OF[name]], inspect.getsourcelines(getattr(fc, name))[1]))
    return [name for name in found if name not in NO_OPERATORS]


def section(name: str, title: str) -> str:
    """A section of a function's docstring as one line, "" if it has none."""
    text = inspect.getdoc(getattr(fc, name)) or ""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def source_of(name: str) -> str:
    """What the docstring cites; "`other`'s" stands for what the other one cites."""
    cited = section(name, "References")
    other = re.match(r"`(\w+)`'s(, .*)?\.$", cited)
    if not other:
        return cited
    return f"{source_of(other[1]).rstrip('.')}{(other[2] or '').replace(', ', ' (', 1)}{')' if other[2] else ''}."


def gradient_of(name: str) -> str:
    """The function that computes it, with what that returns; a loss gives it along."""
    backward = f"{name}_backward"
    if hasattr(fc, backward):
        names = re.findall(r"\bd[a-z]\w*(?=(?:, d\w+)* :)", section(backward, "Returns")) or ["dx"]
        return f"`{backward}`: {', '.join(dict.fromkeys(names))}"
    if "return_grad" in inspect.signature(getattr(fc, name)).parameters:
        return "`return_grad=True`"
    other = re.search(r"(\w+) : its gradient", section(name, "See Also"))
    return f"`{other[1]}`" if other else ""


def layouts_of(name: str) -> str:
    """Both of the default's rank; of every rank, if the docstring says so."""
    parameters = inspect.signature(getattr(fc, name)).parameters
    if "layout" not in parameters:
        axis, first = parameters.get("axis"), next(iter(parameters))
        shape = re.search(rf"^{first}\b.* : .*?shapes? (\(.*?\))", inspect.getdoc(getattr(fc, name)) or "", re.M)
        return f"any, `axis={axis.default}`" if axis else shape[1] if shape else "any"
    default = parameters["layout"].default
    text = inspect.getdoc(getattr(fc, name)) or ""
    same = re.search(r"^layout\n    As `(\w+)` takes it", text, re.M)
    entry = re.search(r"^layout : (.*)", inspect.getdoc(getattr(fc, same[1])) or "" if same else text, re.M)
    every = entry is not None and "those of one and of three axes" in entry[1]
    return ", ".join(layout for pair in LAYOUTS.values() if every or default in pair for layout in pair)


def dtypes_of(names: Iterable[str]) -> dict[str, str]:
    """Those for which every case of the tests runs and returns what it was given."""
    kinds = [*FLOATS, *(test_half.HALF[name] for name in STORAGE)]
    cases: dict[str, list[tuple[list[np.ndarray], Callable[..., Any]]]] = {}
    for name, arrays, call in test_half.CASES:
        cases.setdefault(name, []).append((arrays, call))

    def computes(name: str, dtype: np.dtype) -> bool:
        for arrays, call in cases[name]:
            try:
                result = call(*(array.astype(dtype) for array in arrays))
            except TypeError:
                return False
            first = result[0] if isinstance(result, tuple) else result
            if np.asarray(first).dtype != dtype:
                return False
        return True

    found = {}
    for name in names:
        loss = inspect.signature(getattr(fc, name)).parameters.get("loss")
        case = loss.default.__name__ if loss is not None else name  # what calls a loss computes that one's
        found[name] = ", ".join(dtype.name for dtype in kinds if computes(case, dtype))
    return found


def operators() -> dict[str, list[Operator]]:
    """Every operator, under its heading."""
    made = {}
    for heading, modules in GROUPS.items():
        names = functions_of(modules)
        dtypes = dtypes_of(names)
        made[heading] = [
            Operator(
                name,
                (inspect.getdoc(getattr(fc, name)) or "").partition("\n")[0],
                gradient_of(name),
                layouts_of(name),
                dtypes[name],
                source_of(name),
            )
            for name in names
        ]
    return made


# ---- speed -----------------------------------------------------------------------------------------------------------


def measured(paths: Iterable[Path]) -> tuple[dict[str, list[Cell]], list[str]]:
    """Cells by operator, and a line about each run. Of a cell measured twice, the later; float32, "auto", any ISA."""
    runs = sorted((json.loads(path.read_text(encoding="utf-8")) for path in paths), key=lambda run: run["started"])
    latest: dict[tuple[Any, ...], tuple[str, Cell]] = {}
    about: dict[str, None] = {}
    for run in runs:
        options = run["options"]
        if options["dtype"] != "float32" or options["algorithm"] != "auto" or options["isa"]:
            continue
        used = False
        for cell in run["cells"]:
            family = FAMILIES.get(cell["family"])
            if family is None or family.operator is None or cell["ratio"] is None or cell["wrong"]:
                continue
            operator = family.operator(family.problem(**cell["problem"]))
            if operator is not None:
                key = operator, cell["row"], cell["pass"], cell["threads"], options["layout"]
                latest[key] = operator, cell | {"layout": options["layout"]}
                used = True
        if used:
            machine, versions = run["machine"], run["versions"]
            about[
                f"{machine['cpu']}, {machine['cores']} cores, {run['isa']}, "
                f"PyTorch {versions.get('torch', '?')}, revision {machine['revision']}"
            ] = None
    cells: dict[str, list[Cell]] = {}
    for operator, cell in latest.values():
        cells.setdefault(operator, []).append(cell)
    return cells, list(about)


def speed(cells: list[Cell]) -> str:
    """Geometric mean and lowest of the ratios, for each layout."""
    texts = []
    for layout in ("NCHW", "NHWC"):
        ratios = [cell["ratio"] for cell in cells if cell["layout"] == layout]
        if ratios:
            texts.append(f"{geometric_mean(ratios):.2f} ({min(ratios):.2f}){' NHWC' if layout == 'NHWC' else ''}")
    return ", ".join(texts)


# ---- the page --------------------------------------------------------------------------------------------------------


def row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(made: dict[str, list[Operator]], paths: Iterable[Path] = ()) -> str:
    cells, about = measured(paths)
    count = sum(map(len, made.values()))
    lines = [
        "<!-- Made by `python docs/make_operators.py` from the code and what `python bench` measured: do not edit. -->",
        "",
        "# Operators",
        "",
        INTRODUCTION.strip().format(count),
        *(f"\nMeasured on {line}." for line in about),
    ]
    for heading, rows in made.items():
        lines += ["", f"## {heading}", "", row((*HEADER, *SPEEDS)), row(["---"] * (len(HEADER) + len(SPEEDS)))]
        for operator in rows:
            own = cells.get(operator.name, [])
            forward = [cell for cell in own if cell["pass"] == "forward"]
            backward = [cell for cell in own if cell["pass"] != "forward"]
            lines.append(row((*operator.cells, speed(forward), speed(backward))))
    return "\n".join(lines) + "\n"


def static(text: str) -> list[list[str]]:
    """The rows of a page without their speeds."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))[: len(HEADER)] for line in rows]


def main() -> None:
    paths = [Path(path) for path in sys.argv[1:]] or sorted((ROOT / "runs").glob("*.json"))
    PAGE.write_text(page(operators(), paths), encoding="utf-8")
    print(f"written: {PAGE.relative_to(ROOT)}, speeds from {', '.join(map(str, paths)) or 'nothing'}")


if __name__ == "__main__":
    main()
