"""How fast fastconv is beside what else a user could pick, and beside what the machine can do.

    python bench                          the whole list, every pass, on 1 thread and on all
    python bench --rows 'vgg:*' --passes forward --threads 1
    python bench product --dtype float64  the matrix product alone
    python bench memory                   pooling, normalization, ReLU, cross entropy, gradient descent
    python bench family                   convolutions of one and three axes, transposed, depthwise, dilated
    python bench train inference          whole networks: training steps and their memory, and inference
    python bench choice                   algorithm="auto" beside each algorithm alone: under 1, it chose wrong
    python bench --isa avx2               every side limited to AVX2

It prints a table and writes runs/bench.json and runs/bench.png.

Each side (fastconv; PyTorch with its plain tensors, and with channels_last ones; NumPy for products) is a process
of its own, and they take turns: fastconv, PyTorch, PyTorch channels_last, the machine's peak, fastconv, ... Only
one computes at a time: the next one is asked when the last one's threads sleep (that is checked, because idle
OpenMP threads spin for some milliseconds). All sides get the same numbers, return fresh arrays, and run with the
threading policy that they have by default: OMP_*, KMP_*, GOMP_* and such are removed from the environment. (Threads
that sleep at once, OMP_WAIT_POLICY=PASSIVE, would need no such check, but then waking them is timed, and no user
sets that.) Minima are compared. The results are compared, too: a cell whose results differ is marked "!", and the
exit status is then 1.

ratio   time of the fastest peer / time of fastconv: above 1 fastconv is faster.
% peak  fastconv's operations a second over the machine's multiply-add peak, measured by peak.c in the same rounds.
        Operations are those of the textbook's loops, so an algorithm with fewer multiplications may pass 100.
        For pooling: bytes, and the speed of a copy.

A training step's memory is the peak of two steps, from where the network is in place, each side in a fresh process;
its ratio is PyTorch's over fastconv's, too.

How long a cache line takes to another processor and back is measured at each cell of several threads: some 50 ns where
they have a last-level cache in common, several times that where they do not, as in large servers, and at times on
virtual machines, whose processors are moved. Then threads wait for what others wrote.

Quote nothing from a machine that does other work at the same time. PyTorch is optional: without it, % peak remains.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import signal
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import machine
import report
from families import FAMILIES, problems_of
from harness import LIMITS, Cell, Harness, Options, SideError


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    defaults = Options()
    add("families", nargs="*", metavar="FAMILY", help=f"{', '.join(FAMILIES)} (default: conv2d product)")
    add("--rows", default="*", metavar="PATTERN", help="names of problems, as in a shell: 'vgg:*'; several with commas")
    add(
        "--list",
        default="",
        metavar="FILE",
        help="list of problems: a path, or a name in tests/shapes (default: the family's)",
    )
    add("--passes", default="", metavar="PASS,...", help="forward, input, weight (default: all)")
    add("--threads", default="", metavar="N,...", help="default: 1 and all cores")
    add("--rounds", type=int, default=defaults.rounds, help="least number of rounds (default: %(default)s)")
    add("--seconds", type=float, default=defaults.seconds, help="length of a sample (default: %(default)s)")
    add("--isa", default="", choices=sorted(LIMITS), help="limit every side to an instruction set")
    add("--algorithm", default=defaults.algorithm, help="fastconv's algorithm (default: %(default)s)")
    add("--layout", default=defaults.layout, choices=["NCHW", "NHWC"], help="fastconv's layout (default: %(default)s)")
    add("--dtype", default=defaults.dtype, choices=["float32", "float64"], help="default: %(default)s")
    add("--no-peers", action="store_true", help="fastconv alone")
    add("--times", action="store_true", help="show fastconv's milliseconds in the table, too")
    add("--json", type=Path, default=Path("runs/bench.json"), metavar="FILE", help="default: %(default)s")
    add(
        "--plot",
        type=Path,
        default=Path("runs/bench.png"),
        metavar="FILE",
        help="default: %(default)s (needs Matplotlib)",
    )
    return made


def listed(text: str, choices: Iterable[str], option: str) -> list[str]:
    """Words of a comma list, each one of ``choices``."""
    words = text.split(",")
    for word in words:
        if word not in choices:
            raise SystemExit(f"{option}: {word!r} is none of {', '.join(choices)}")
    return words


def cells_to_measure(args: argparse.Namespace) -> Iterator[tuple[str, Any, str, int]]:
    try:
        counts = [int(word) for word in args.threads.split(",")] if args.threads else []
    except ValueError:
        raise SystemExit(f"--threads: {args.threads!r} is not a list of whole numbers") from None
    if any(count < 1 for count in counts):
        raise SystemExit(f"--threads: {args.threads!r}, expected 1 or more")
    counts = counts or sorted({1, machine.available_cores()})
    for name in args.families:
        family = FAMILIES[name]
        passes = listed(args.passes, family.passes, "--passes") if args.passes else list(family.passes)
        patterns = args.rows.split(",")
        for problem in problems_of(name, args.list):
            if any(fnmatch.fnmatchcase(problem.name, pattern) for pattern in patterns):
                has = getattr(family, "has", lambda *_: True)
                yield from (
                    (name, problem, pass_, count) for pass_ in passes if has(problem, pass_) for count in counts
                )


def with_progress(items: list[Any]) -> Iterable[Any]:
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    # into a file, a line a minute
    bar: Iterable[Any] = tqdm(items, unit="cell", leave=False, mininterval=0.1 if sys.stderr.isatty() else 60)
    return bar


def main() -> int:
    args = parser().parse_args()
    args.families = listed(",".join(args.families or ["conv2d", "product"]), FAMILIES, "FAMILY")
    if args.rounds < 1 or not args.seconds > 0:
        raise SystemExit("--rounds, --seconds: expected more than 0")
    wanted = list(cells_to_measure(args))
    if not wanted:
        raise SystemExit(f"--rows: no problem is called {args.rows!r}")
    options = Options(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Options)})
    peers = [] if args.no_peers else sorted({peer for name in args.families for peer in FAMILIES[name].peers})
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        harness = Harness(peers, options)
    except SideError as error:
        raise SystemExit(f"fastconv: {error}") from None
    with harness:
        cells: list[Cell] = []
        try:
            for one in with_progress(wanted):
                cells.append(harness.cell(*one))
        except KeyboardInterrupt:  # an hour's measurements are worth a table
            print(f"interrupted: {len(cells)} of {len(wanted)} cells were measured", file=sys.stderr)
            if not cells:
                return 130
        facts = {
            "started": started,
            "machine": machine.describe(),
            "isa": harness.isa,
            "versions": harness.versions,
            "missing": harness.missing,
            "options": dataclasses.asdict(options),
            "machine_speed": harness.speeds,
            "disturbance": harness.disturbance,
            "handover": [min(harness.handovers), max(harness.handovers)] if harness.handovers else None,
        }
    print(report.head(facts))
    for name in args.families:
        mine = [cell for cell in cells if cell.family == name]
        if mine:
            print(f"\n{name}\n{report.table(name, mine, args.times)}")
    for path in (args.json, args.plot):
        path.parent.mkdir(parents=True, exist_ok=True)
    report.write_json(args.json, facts, cells)
    written = [args.json]
    try:
        name = args.families[0]
        report.plot(args.plot, name, facts, [cell for cell in cells if cell.family == name])
        written.append(args.plot)
    except (ImportError, ValueError) as error:
        print(f"no plot: {error}", file=sys.stderr)
    print(f"\nwritten: {', '.join(map(str, written))}")
    return 130 if len(cells) < len(wanted) else int(any(cell.wrong for cell in cells))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops us gets the table, too
    sys.exit(main())
