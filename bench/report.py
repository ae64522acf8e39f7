"""Measurements as a table, as JSON, as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from families import FAMILIES
from harness import Cell

DISTURBED = 0.05  # processors
UNIT = {"multiply-adds": "GFLOP/s", "bytes": "GB/s"}
SIDES = {
    "torch-nchw": "PyTorch NCHW",
    "torch-nhwc": "PyTorch channels_last",
    "numpy": "NumPy",
    **{f"fastconv-{name}": f'algorithm="{name}"' for name in ("direct", "im2col", "winograd", "depthwise")},
}


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def head(facts: dict[str, Any]) -> str:
    """The machine and how it was measured, in a few lines."""
    machine, options = facts["machine"], facts["options"]
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {caches}",
        ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + (f", revision {machine['revision']}" if machine["revision"] else ""),
        f"{options['dtype']}, {options['layout']}, algorithm {options['algorithm']}, instruction set {facts['isa']}"
        + (" (all sides limited to it)" if options["isa"] else ""),
    ]
    for key, speed in facts["machine_speed"].items():
        bound, threads = key.split(", ")
        name = {"multiply-adds": "multiply-add peak", "bytes": "copy, read and written"}[bound]
        lines.append(f"{name}, {_threads(int(threads))}: {speed / 1e9:.1f} {UNIT[bound]}")
    if facts.get("handover"):
        low, high = (1e9 * seconds for seconds in facts["handover"])
        lines.append(f"a cache line to another processor and back: {low:.0f} to {high:.0f} ns")
    if (facts["disturbance"] or 0) > DISTURBED:
        lines.append(f"DISTURBED: other processes kept {facts['disturbance']:.2f} processors busy. Do not quote this.")
    lines += [f"{side}: not measured ({reason})" for side, reason in facts["missing"].items()]
    return "\n".join(lines)


def _columns(cells: list[Cell]) -> list[tuple[str, int]]:
    """Passes and thread counts, in the order in which they were measured."""
    passes = list(dict.fromkeys(cell.pass_ for cell in cells))
    threads = sorted({cell.threads for cell in cells})
    return [(pass_, count) for pass_ in passes for count in threads]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _mark(cell: Cell) -> str:
    return "!" if cell.wrong else "~" if cell.noisy else " "


def table(family_name: str, cells: list[Cell], times: bool = False) -> str:
    """Ratio to the best peer and share of the machine's speed, a row for each problem, and their means."""
    family = FAMILIES[family_name]
    columns = _columns(cells)
    passes = list(dict.fromkeys(pass_ for pass_, _ in columns))
    counts = sorted({count for _, count in columns})
    found = {(cell.row, cell.pass_, cell.threads): cell for cell in cells}
    rows = list(dict.fromkeys(cell.row for cell in cells))
    peers = any(cell.ratio is not None for cell in cells)
    widths = {"ratio": 7 * peers, "share": 7, "ms": 9 * times}
    width = sum(widths.values()) + 1
    titles = [*(f"{len(rows)} rows: {what}" for what in ("geometric mean", "lowest")), *family.groups, *rows]
    first = max(map(len, titles)) + 1

    def line(title: str, entry: Callable[[str, int], tuple[str, str, str, str]]) -> str:
        text = title.ljust(first)
        for pass_, count in columns:
            ratio, share, ms, mark = entry(pass_, count)
            text += ratio.rjust(widths["ratio"]) if peers else ""
            text += share.rjust(widths["share"])
            text += ms.rjust(widths["ms"]) if times else ""
            text += mark
        return text.rstrip()

    group = width * len(counts)
    out = [
        " " * first + "".join(family.passes[pass_].center(group) for pass_ in passes).rstrip(),
        " " * first + "".join(_threads(count).rjust(width - 1) + " " for _, count in columns).rstrip(),
        line("", lambda *_: ("ratio", "% peak", "ms", " ")),
    ]

    def row(name: str) -> str:
        def entry(pass_: str, count: int) -> tuple[str, str, str, str]:
            cell = found.get((name, pass_, count))
            if cell is None or cell.ours is None:
                return "-", "-", "-", " "
            share = cell.share * 100 if cell.share is not None else None
            ours = f"{cell.ours / 2**20:.0f} MiB" if cell.memory else f"{cell.ours * 1e3:.3f}"
            return _number(cell.ratio, ".2f"), _number(share, ".0f"), ours, _mark(cell)

        return line(name, entry)

    out += [row(name) for name in rows]

    def over(title: str, names: list[str], reduce: Callable[[list[float]], float | None]) -> str:
        def entry(pass_: str, count: int) -> tuple[str, str, str, str]:
            chosen = [found[name, pass_, count] for name in names if (name, pass_, count) in found]
            ratio = reduce([cell.ratio for cell in chosen if cell.ratio is not None])
            share = reduce([cell.share * 100 for cell in chosen if cell.share is not None])
            return _number(ratio, ".2f"), _number(share, ".0f"), "", " "

        return line(title, entry)

    problems = {cell.row: family.problem(**cell.problem) for cell in cells}
    if len(rows) > 1:
        out.append("")
        out.append(over(f"{len(rows)} rows: geometric mean", rows, geometric_mean))
        out.append(over(f"{len(rows)} rows: lowest", rows, lambda values: min(values, default=None)))
        for title, belongs in family.groups.items():
            names = [name for name in rows if belongs(problems[name])]
            if names and len(names) < len(rows):
                out.append(f"{title} ({len(names)} row{'s' * (len(names) > 1)})")
                out.append(over("  geometric mean", names, geometric_mean))
                out.append(over("  lowest", names, lambda values: min(values, default=None)))
    notes = []
    if any(cell.noisy for cell in cells):
        notes.append("~ the two best rounds of a side differ by more than 3 %")
    if any(cell.wrong for cell in cells):
        notes.append("! results differ from a peer's beyond the tolerance")
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        for side, reason in cell.errors.items():
            reasons.setdefault(f"{side}: {reason}", []).append(cell.row)
    notes += [f"- {reason} ({', '.join(dict.fromkeys(names))})" for reason, names in reasons.items()]
    return "\n".join(out + [""] * bool(notes) + notes)


def write_json(path: Path, facts: dict[str, Any], cells: list[Cell]) -> None:
    path.write_text(json.dumps(facts | {"cells": [cell.as_dict() for cell in cells]}, indent=1) + "\n")


# Threads are an ordered quantity: lightness of one hue, darker for more.
_SHADES = ["#86b6ef", "#2a78d6", "#104281"]
_INK, _MUTED, _GRID, _SURFACE = "#0b0b0b", "#52514e", "#e1e0d9", "#fcfcfb"


def plot(path: Path, family_name: str, facts: dict[str, Any], cells: list[Cell]) -> None:
    """Ratios to the best peer (without peers, shares of the machine's speed): a panel a pass, a line a problem."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    family = FAMILIES[family_name]
    peers = any(cell.ratio is not None for cell in cells)
    passes = list(dict.fromkeys(cell.pass_ for cell in cells))
    counts = sorted({cell.threads for cell in cells})
    rows = list(dict.fromkeys(cell.row for cell in cells))
    shades = {count: _SHADES[-len(counts) :][index] for index, count in enumerate(counts[:3])}
    values: dict[tuple[str, str, int], float] = {}
    for cell in cells:
        value = cell.ratio if peers else cell.share
        if value is not None:
            values[cell.row, cell.pass_, cell.threads] = value
    if not values:
        raise ValueError("nothing to plot: neither a peer nor the machine's peak was measured")
    low, high = min([1.0, *values.values()]) / 1.12, max([1.0, *values.values()]) * 1.12

    plt.rcParams.update({"font.size": 9, "font.family": "sans-serif", "text.color": _INK, "axes.labelcolor": _MUTED})
    height = 0.27 * (len(rows) + 1) + 1.7
    figure, axes = plt.subplots(
        1,
        len(passes),
        sharey=True,
        squeeze=False,
        figsize=(2.2 + 3.1 * len(passes), height),
        facecolor=_SURFACE,
        layout="constrained",
    )
    for axis, pass_ in zip(axes[0], passes, strict=True):
        axis.set_facecolor(_SURFACE)
        axis.set_xscale("log")
        axis.set_xlim(low, high)
        axis.axvline(1, color=_MUTED, linewidth=1, zorder=1)
        axis.hlines(range(len(rows)), low, high, color=_GRID, linewidth=0.6, zorder=0)
        for y, name in enumerate(rows):
            pair = [values[name, pass_, count] for count in counts if (name, pass_, count) in values]
            if len(pair) > 1:
                axis.hlines(y, min(pair), max(pair), color="#c3c2b7", linewidth=2, zorder=2)
        means = []
        for count in counts:
            points = [(values[name, pass_, count], y) for y, name in enumerate(rows) if (name, pass_, count) in values]
            if not points:
                continue
            axis.scatter(
                *zip(*points, strict=True),
                s=42,
                color=shades.get(count, _SHADES[-1]),
                edgecolor=_SURFACE,
                linewidth=1,
                zorder=3,
                label=_threads(count),
            )
            mean = geometric_mean(value for value, _ in points) or 0.0
            means.append(f"{mean:.2f}" if peers else f"{mean:.0%}")
        axis.set_title(family.passes[pass_], fontsize=10, color=_INK, loc="left", fontweight="bold", pad=19)
        axis.annotate(
            f"geometric mean {' / '.join(means)}",
            (0, 1),
            xytext=(0, 7),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8.5,
            color=_MUTED,
        )
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 3, 4, 6, 10, 20, 40) if low <= t <= high]
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticklabels([f"{t:g}x" if peers else f"{t:.0%}" for t in ticks])
        axis.tick_params(length=0, colors=_MUTED)
        axis.grid(axis="x", color=_GRID, linewidth=0.6, zorder=0)
        for side in axis.spines.values():
            side.set_visible(False)
    axes[0][0].set_yticks(range(len(rows)), rows, color=_INK)
    axes[0][0].set_ylim(len(rows) - 0.4, -0.6)
    named = [SIDES[side] for side in family.peers if any(side in cell.seconds for cell in cells)]
    what = f"time of the faster of {' and '.join(named)}, over fastconv's" if peers else "share of the machine's peak"
    options = facts["options"]
    figure.suptitle(
        f"{family_name}, {options['dtype']}: {what}",
        x=0.01,
        ha="left",
        fontsize=12,
        color=_INK,
    )
    figure.supxlabel(
        f"{facts['machine']['cpu']}, {facts['isa']}"
        + "".join(f", {name} {facts['versions'][name]}" for name in ("torch", "fastconv") if name in facts["versions"]),
        x=0.01,
        ha="left",
        fontsize=8,
        color=_MUTED,
    )
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=len(labels), frameon=False, fontsize=9, handletextpad=0.2)
    figure.savefig(path, dpi=150)
    plt.close(figure)
