"""Everything about fastconv on a GPU, with one command: builds it, tests it, measures it beside PyTorch.

    python bench/gpu.py                   on a machine with a GPU; less than eight minutes
    python bench/gpu.py --no-build        the package is built already
    python bench/gpu.py --only conv       one part of the table: conv, memory, training

Needs a GPU with its driver, CuPy, NumPy, pytest, Cython, setuptools and a C compiler; nvidia-cudnn-frontend for cuDNN,
and PyTorch to be measured beside. What is missing is said, and left out.

1. Builds the extension in place.
2. Runs tests/test_cuda.py: every function on CuPy arrays, compared with its result on the CPU.
3. Prints the table. Times are of CUDA events around many calls in a row, the least of several rounds in which the sides
   take turns. Both get the same numbers and return fresh arrays; PyTorch's cudnn.benchmark is on, and so is our
   autotune; TF32 is allowed on both sides or on neither, as each line says. Results are compared: a line whose results
   differ is marked "!".

ratio   PyTorch's time / fastconv's: above 1 fastconv is faster.
% copy  bytes that have to be read and written a second, in parts of what a copy on the same GPU does.

It exits with 1 if a test failed or results differ, with 2 if there is no GPU. A copy goes into runs/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

Call = Callable[[], Any]
BATCH = 32  # of the classic layers
LARGE = (64, 64, 112, 112)  # what only reads and writes
IMAGE = 224  # the side of what ResNet trains on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-build", action="store_true", help="the package is built already")
    parser.add_argument("--no-tests", action="store_true", help="only measure")
    parser.add_argument("--only", default="", help="conv, memory or training")
    parser.add_argument("--minutes", type=float, default=7.5, help="stop measuring then (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu.json")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # no CuPy, no driver, no GPU
        print(f"bench/gpu.py: no GPU can be used: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    failed = False
    if not options.no_build:
        build()
    report: dict[str, Any] = {"machine": machine(cupy), "lines": []}
    print(*(f"{key:12} {value}" for key, value in report["machine"].items()), sep="\n", flush=True)
    if not options.no_tests:
        report["tests"], failed = run_tests()
    table = Table(cupy, deadline, report["lines"])
    parts = {"conv": convolutions, "memory": memory_bound, "training": training}
    for name, part in parts.items():
        if options.only in ("", name):
            part(table)
    table.summary()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1))
    return int(failed or any(line.get("differs") for line in report["lines"]))


def build() -> None:
    """The extension in place; its kernels for each instruction set are compiled side by side."""
    start = time.monotonic()
    command = [sys.executable, "setup.py", "-q", "build_clib", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the build failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    print(f"built in {time.monotonic() - start:.0f} s", flush=True)


def machine(cupy: Any) -> dict[str, str]:
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.get_device_id())
    found = {
        "GPU": properties["name"].decode(),
        "memory": f"{properties['totalGlobalMem'] / 2**30:.0f} GiB",
        "driver": str(cupy.cuda.runtime.driverGetVersion()),
        "CUDA": str(cupy.cuda.runtime.runtimeGetVersion()),
        "CuPy": cupy.__version__,
        "Python": platform.python_version(),
    }
    for name, module, version in (("PyTorch", "torch", "__version__"), ("cuDNN", "cudnn", "backend_version")):
        try:
            value = getattr(__import__(module), version)
            found[name] = str(value() if callable(value) else value)
        except Exception as error:  # missing, or its library is
            found[name] = f"none ({type(error).__name__}: {str(error).splitlines()[0]})"
    return found


def run_tests() -> tuple[str, bool]:
    """The tests on this GPU, in a process of their own. What else the machine warns of is no failure."""
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    command += ["-o", "filterwarnings=default", "-k", "not sources_compile", "--tb=short"]
    environment = {key: value for key, value in os.environ.items() if key != "FASTCONV_TEST_EMULATED"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        print("tests: not done after 240 s")
        return "not done after 240 s", True
    lines = done.stdout.strip().splitlines()
    if done.returncode:
        print("\n".join(lines[-80:]), done.stderr[-3000:])
    last = lines[-1] if lines else done.stderr[-300:]
    print(f"tests: {last} ({time.monotonic() - start:.0f} s)", flush=True)
    return last, done.returncode != 0


class Table:
    """Measures lines, prints and keeps them."""

    def __init__(self, cupy: Any, deadline: float, lines: list[dict[str, Any]]) -> None:
        self.cupy, self.deadline, self.lines = cupy, deadline, lines
        self.left_out: list[str] = []
        try:
            import torch

            torch.backends.cudnn.benchmark = True
            self.torch: Any = torch if torch.cuda.is_available() else None
        except ImportError:
            self.torch = None
        source = cupy.ones(2**28, "float32")
        target = cupy.empty_like(source)
        self.copy = 2 * source.nbytes / self.times([lambda: cupy.copyto(target, source)])[0]  # bytes a second
        print(f"a copy moves {self.copy / 1e12:.2f} TB/s\n")
        print(f"{'':44}{'fastconv':>11}{'PyTorch':>11}{'ratio':>8}{'% copy':>8}", flush=True)

    def heading(self, text: str) -> None:
        print(text, flush=True)

    def times(self, calls: list[Call], seconds: float = 0.03, rounds: int = 5) -> list[float]:
        """Seconds of one call of each: the least of several rounds, in which they take turns."""
        cupy = self.cupy
        best, counts = [math.inf] * len(calls), []

        def timed(call: Call, count: int) -> float:
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            for _ in range(count):
                call()
            end.record()
            end.synchronize()
            return float(cupy.cuda.get_elapsed_time(start, end)) * 1e-3

        for call in calls:
            for _ in range(3):
                call()
            cupy.cuda.runtime.deviceSynchronize()
            counts.append(max(3, min(1000, int(seconds / max(timed(call, 3) / 3, 1e-6)))))
        for _ in range(rounds):
            for i, call in enumerate(calls):
                best[i] = min(best[i], timed(call, counts[i]) / counts[i])
        return best

    def line(
        self,
        group: str,
        name: str,
        make: Callable[[], tuple[Call, Call | None]],
        size: float = 0,
        tolerance: float = 1e-4,
        compared: bool = True,
    ) -> None:
        """Measure one line; `make` gives both sides' calls, `size` is the bytes that have to move."""
        if time.monotonic() > self.deadline:
            self.left_out.append(f"{group} {name}")
            return
        line: dict[str, Any] = {"group": group, "name": name}
        self.lines.append(line)
        try:
            ours, theirs = make()
            calls = [ours] if theirs is None else [ours, theirs]
            if theirs is not None and compared:
                line["differs"] = not self.alike(ours(), theirs(), tolerance)
            measured = self.times(calls)
        except Exception as error:  # one line is not worth the others
            line["error"] = f"{type(error).__name__}: {error}"
            print(f"  {name:42}{line['error'].splitlines()[0][:100]}", flush=True)
            return
        line["fastconv"] = measured[0]
        text = f"  {name:42}{measured[0] * 1e6:9.1f}us"
        if theirs is not None:
            line["torch"], line["ratio"] = measured[1], measured[1] / measured[0]
            text += f"{measured[1] * 1e6:9.1f}us{line['ratio']:8.2f}"
        else:
            text += " " * 19
        if size:
            line["copy"] = size / measured[0] / self.copy
            text += f"{100 * line['copy']:8.0f}"
        print(text + ("  ! results differ" if line.get("differs") else ""), flush=True)

    def alike(self, ours: Any, theirs: Any, tolerance: float) -> bool:
        """Whether results are the same but for rounding, by the L2 norm."""
        if isinstance(ours, tuple):
            ours, theirs = zip(*((a, b) for a, b in zip(ours, theirs) if a is not None))
            return all(self.alike(a, b, tolerance) for a, b in zip(ours, theirs))
        other = self.cupy.asarray(theirs.detach().contiguous())
        if ours.shape != other.shape:
            return False
        one, other = ours.astype("float64"), other.astype("float64")
        return bool(self.cupy.linalg.norm(one - other) <= tolerance * max(float(self.cupy.linalg.norm(other)), 1e-30))

    def summary(self) -> None:
        """Geometric means by group."""
        groups: dict[str, list[float]] = {}
        for line in self.lines:
            if "ratio" in line:
                groups.setdefault(line["group"], []).append(line["ratio"])
        print(f"\n{'geometric mean of ratios':46}{'mean':>8}{'lowest':>8}{'lines':>7}")
        for group, ratios in groups.items():
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            print(f"  {group:44}{mean:8.2f}{min(ratios):8.2f}{len(ratios):7}")
        if self.left_out:
            print(f"no time was left for {len(self.left_out)} lines, from {self.left_out[0]} on")


def numbers(table: Table, *shape: int, dtype: str = "float32", seed: int = 0) -> Any:
    """Normally distributed, on the GPU; the same for both sides, which share the memory."""
    return table.cupy.random.default_rng(seed).standard_normal(shape, dtype="float32").astype(dtype)


def shared(table: Table, *arrays: Any) -> list[Any]:
    return [table.torch.from_dlpack(array) for array in arrays]


def convolutions(table: Table) -> None:
    import problems

    import fastconv as fc

    torch = table.torch
    layers = [p for p in problems.load("classic", problems.Conv) if not p.name.startswith("lenet")]
    for dtype, tf32 in (("float32", False), ("float32", True), ("float16", False)):
        if torch is not None:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        kind = "TF32" if tf32 else dtype
        tolerance = 3e-3 if tf32 else 5e-3 if dtype == "float16" else 2e-5
        for which in ("forward", "input", "weight"):
            group = f"conv {kind} {which}"
            table.heading(group)
            for p in layers:

                def make(
                    p: Any = p, which: str = which, dtype: str = dtype, tf32: bool = tf32
                ) -> tuple[Call, Call | None]:
                    x = numbers(table, BATCH, *p.x_shape[1:], dtype=dtype)
                    w = numbers(table, *p.weight_shape, dtype=dtype) * 0.05
                    dy = numbers(table, BATCH, *p.y_shape[1:], dtype=dtype)
                    options = {"stride": p.stride, "padding": p.padding, "groups": p.groups}
                    needs = (which == "input", which == "weight", False)

                    def run(algorithm: str) -> Any:
                        if which == "forward":
                            return fc.conv2d(x, w, algorithm=algorithm, **options)
                        gradients = fc.conv2d_backward(dy, x, w, algorithm=algorithm, needs=needs, **options)
                        return gradients[1 if which == "weight" else 0]

                    algorithm = "cudnn_tf32" if tf32 else "cudnn"
                    try:
                        with fc.autotune():  # cuDNN's plans are measured, as PyTorch's benchmark mode does
                            run(algorithm)
                    except ValueError:  # cuDNN is missing or declines
                        algorithm = "auto"

                    def ours() -> Any:
                        return run(algorithm)

                    if torch is None:
                        return ours, None
                    xt, wt, dyt = shared(table, x, w, dy)
                    pairs = [[p.stride] * 2, [p.padding] * 2, [1, 1], False, [0, 0], p.groups]

                    def theirs() -> Any:
                        if which == "forward":
                            return torch.nn.functional.conv2d(xt, wt, **options)
                        backward = torch.ops.aten.convolution_backward
                        return backward(dyt, xt, wt, None, *pairs, list(needs))[1 if which == "weight" else 0]

                    return ours, theirs

                table.line(group, p.name, make, tolerance=tolerance)
    if torch is not None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def memory_bound(table: Table) -> None:
    """On large arrays of float32."""
    import fastconv as fc

    torch = table.torch
    shape = LARGE
    x, dy = numbers(table, *shape), numbers(table, *shape, seed=1)
    weight, bias = numbers(table, shape[1]), numbers(table, shape[1])
    n = x.nbytes
    xt, dyt, wt, bt = shared(table, x, dy, weight, bias) if torch is not None else (None,) * 4
    functional = torch.nn.functional if torch is not None else None
    aten = torch.ops.aten if torch is not None else None
    y, switches = fc.max_pool2d(x, 3, stride=2, padding=1, return_switches=True)
    y2, switches2 = fc.max_pool2d(x, 2, return_switches=True)
    small, small2 = numbers(table, *y.shape), numbers(table, *y2.shape)
    st, s2t = shared(table, small, small2) if torch is not None else (None, None)
    _, mean, var = fc.batch_norm(x, training=True, return_statistics=True)
    inverse = (1 / table.cupy.sqrt(var + 1e-5)).astype("float32")
    pt = shared(table, mean.astype("float32"), inverse) if torch is not None else (None, None)
    indices = [t.long() for t in shared(table, switches, switches2)] if torch is not None else (None, None)
    pool = {"stride": 2, "padding": 1}
    lines: list[tuple[str, float, Call, Any]] = [
        ("relu", 2 * n, lambda: fc.relu(x), lambda: torch.relu(xt)),
        ("relu backward", 3 * n, lambda: fc.relu_backward(dy, x), lambda: aten.threshold_backward(dyt, xt, 0)),
        ("sigmoid", 2 * n, lambda: fc.sigmoid(x), lambda: torch.sigmoid(xt)),
        ("tanh", 2 * n, lambda: fc.tanh(x), lambda: torch.tanh(xt)),
        ("elu", 2 * n, lambda: fc.elu(x), lambda: functional.elu(xt)),
        ("dropout 0.5", 2 * n, lambda: fc.dropout(x, 0.5, seed=1), None),
        ("max pool 3/2", 1.25 * n, lambda: fc.max_pool2d(x, 3, **pool), lambda: functional.max_pool2d(xt, 3, **pool)),
        ("max pool 2/2", 1.25 * n, lambda: fc.max_pool2d(x, 2), lambda: functional.max_pool2d(xt, 2)),
        (
            "max pool 3/2 backward",
            1.5 * n,
            lambda: fc.max_pool2d_backward(small, switches, x.shape, kernel_size=3, **pool),
            lambda: aten.max_pool2d_with_indices_backward(st, xt, [3, 3], [2, 2], [1, 1], [1, 1], False, indices[0]),
        ),
        (
            "max pool 2/2 backward",
            1.5 * n,
            lambda: fc.max_pool2d_backward(small2, switches2, x.shape, kernel_size=2),
            lambda: aten.max_pool2d_with_indices_backward(s2t, xt, [2, 2], [2, 2], [0, 0], [1, 1], False, indices[1]),
        ),
        (
            "average pool 3/2",
            1.25 * n,
            lambda: fc.avg_pool2d(x, 3, **pool),
            lambda: functional.avg_pool2d(xt, 3, **pool),
        ),
        (
            "average pool 3/2 backward",
            1.25 * n,
            lambda: fc.avg_pool2d_backward(small, x.shape, 3, **pool),
            lambda: aten.avg_pool2d_backward(st, xt, [3, 3], [2, 2], [1, 1], False, True, None),
        ),
        ("global average", n, lambda: fc.global_avg_pool2d(x), lambda: xt.mean((2, 3), keepdim=True)),
        (
            "batch norm, training",
            3 * n,
            lambda: fc.batch_norm(x, None, None, weight, bias, training=True),
            lambda: torch.native_batch_norm(xt, wt, bt, None, None, True, 0.1, 1e-5)[0],
        ),
        (
            "batch norm backward",
            5 * n,
            lambda: fc.batch_norm_backward(dy, x, mean, var, weight, bias),
            lambda: aten.native_batch_norm_backward(
                dyt, xt, wt, None, None, pt[0], pt[1], True, 1e-5, [True, True, True]
            ),
        ),
        (
            "local response norm",
            2 * n,
            lambda: fc.local_response_norm(x, 5),
            lambda: functional.local_response_norm(xt, 5),
        ),
        ("softmax over 1000", 2 * n, lambda: fc.softmax(rows), lambda: torch.softmax(rows_t, -1)),
    ]
    rows = x.reshape(-1)[: x.size // 1000 * 1000].reshape(-1, 1000)
    rows_t = shared(table, rows)[0] if torch is not None else None
    table.heading(f"pooling, normalization, activations on {shape}")
    for name, size, ours, theirs in lines:
        table.line("memory-bound", name, lambda a=ours, b=theirs: (a, None if torch is None else b), size)


def torch_resnet50(torch: Any) -> Any:
    """ResNet-50 as torchvision has it, which need not be installed."""
    nn = torch.nn

    def unit(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[Any]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return [convolution, nn.BatchNorm2d(outputs)]

    class Bottleneck(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            relu = nn.ReLU(inplace=True)
            body = [*unit(inputs, width, 1), relu, *unit(width, width, 3, stride), relu, *unit(width, 4 * width, 1)]
            self.body, self.relu = nn.Sequential(*body), relu
            same = stride == 1 and inputs == 4 * width
            self.shortcut = nn.Identity() if same else nn.Sequential(*unit(inputs, 4 * width, 1, stride))

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    parts = [*unit(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            parts.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))


def training(table: Table) -> None:
    """A training step as `fit` takes it, recorded: forward, loss, backward and step of SGD with momentum, batch 64.

    In mixed precision, float16 with loss scaling on both sides. PyTorch's steps are launched one by one.
    """
    import fastconv as fc
    from fastconv import optim

    torch, cupy = table.torch, table.cupy
    table.heading("training step, batch 64, float32 without TF32, or mixed with float16")

    def step(model: Any, x: Any, target: Any, mixed: bool) -> Call:
        model.to("cuda")
        optimizer = optim.SGD(model.parameters(), 0.01, momentum=0.9)
        scaler = optim.GradScaler() if mixed else None
        trained = fc.containers.Autocast(model, "float16") if mixed else model
        passes = fc.train._Passes(trained, fc.cross_entropy, optimizer, scaler, target, x)

        def run() -> None:
            passes.run(x, target, "in the bench")
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()

        with fc.autotune():  # cuDNN's plans are measured, as PyTorch's benchmark mode does
            run()
        for _ in range(passes.WARM):
            run()
        if passes._recording is None:
            print("  (not recorded: launched step by step)")
        return run

    def torch_step(model: Any, x: Any, target: Any, mixed: bool) -> Call:
        model.cuda().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        scaler = torch.amp.GradScaler("cuda", enabled=mixed)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.float16, enabled=mixed):
                loss = torch.nn.functional.cross_entropy(model(x), target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        return run

    def lenet() -> Any:
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(1, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )

    def modern() -> Any:
        return fc.models.lenet5(variant="modern", rng=0)

    def large() -> Any:
        return fc.models.resnet50(rng=0)

    for name, ours, theirs, shape, mixed in (
        ("lenet5", modern, lenet, (64, 1, 32, 32), False),
        ("resnet50", large, lambda: torch_resnet50(torch), (64, 3, IMAGE, IMAGE), False),
        ("resnet50 mixed", large, lambda: torch_resnet50(torch), (64, 3, IMAGE, IMAGE), True),
    ):
        x, target = numbers(table, *shape), cupy.arange(64) % 10

        def make(
            ours: Any = ours, theirs: Any = theirs, x: Any = x, target: Any = target, mixed: bool = mixed
        ) -> tuple[Call, Call | None]:
            mine = step(ours(), x, target, mixed)
            if torch is None:
                return mine, None
            return mine, torch_step(theirs(), *shared(table, x, target), mixed)

        table.line("training", name, make, compared=False)


if __name__ == "__main__":
    sys.exit(main())
