"""cuDNN through its own Python front end: one graph for each problem, built once and kept.

Optional: without the package ``nvidia-cudnn-frontend`` (or the library behind it) everything is `declined`.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import OrderedDict
from typing import Any

import cupy

from fastconv import tuning
from fastconv.backends.cuda.pooling import spatial
from fastconv.geometry import Window

__all__ = ["Runner", "declined", "forget"]

_MOST_GRAPHS = 512  # kept; the one that was used longest ago goes first
_MOST_WORKSPACE = 1 << 30  # bytes
_MOST_PLANS = 10  # that are measured
_graphs: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_lock = threading.RLock()
_own = threading.local()  # handles: cuDNN's belong to one thread and one device


@functools.lru_cache(maxsize=1)
def _library() -> Any:
    """The module, or the reason why there is none."""
    try:
        import cudnn
    except ImportError:
        return 'nvidia-cudnn-frontend is not installed (pip install "fastconv[cuda13]")'
    try:
        cudnn.backend_version()
    except Exception as error:  # what it cannot find it says in many ways
        return f"cuDNN cannot be used: {error}"
    return cudnn


def _handle(cudnn: Any) -> Any:
    """This thread's handle of the current device, on CuPy's current stream."""
    handles = _own.__dict__.setdefault("handles", {})
    device = int(cupy.cuda.get_device_id())
    if device not in handles:
        handles[device] = cudnn.create_handle()
    cudnn.set_stream(handle=handles[device], stream=int(cupy.cuda.get_current_stream().ptr))
    return handles[device]


def forget() -> None:
    """Drop every graph."""
    with _lock:
        _graphs.clear()


class Graph:
    """One pass of one convolution as cuDNN runs it, with the uids of its three arrays."""

    def __init__(
        self,
        cudnn: Any,
        measure: bool,
        which: str,
        dtype: str,
        channels_last: bool,
        batch: int,
        in_channels: int,
        out_channels: int,
        groups: int,
        window: Window,
        tf32: bool,
    ) -> None:
        types = cudnn.data_type
        data = {
            "float32": types.FLOAT,
            "float64": types.DOUBLE,
            "float16": types.HALF,
            "bfloat16": types.BFLOAT16,
        }[dtype]
        compute = types.DOUBLE if dtype == "float64" else types.FLOAT
        handle = _handle(cudnn)
        graph = cudnn.pygraph(
            io_data_type=data, intermediate_data_type=compute, compute_data_type=compute, handle=handle
        )
        rank = 3 if len(window.kernel) == 3 else 2

        def tensor(name: str, channels: int, number: int, size: tuple[int, ...]) -> tuple[list[int], list[int]]:
            """Lengths and strides of (number, channels, *size), channels lying last if they do in the arrays."""
            lengths = [number, channels, *spatial(size, 1)[3 - rank :]]
            order = [0, *range(2, 2 + rank), 1] if channels_last else list(range(2 + rank))
            strides, step = [0] * (2 + rank), 1
            for axis in reversed(order):
                strides[axis] = step
                step *= lengths[axis]
            return lengths, strides

        x = tensor("x", in_channels, batch, window.size)
        y = tensor("y", out_channels, batch, window.output)
        w = tensor("w", in_channels // groups, out_channels, window.kernel)
        pads = [(0, 0)] * (rank - len(window.padding)) + list(window.padding)
        options = {
            "pre_padding": [before for before, _ in pads],
            "post_padding": [after for _, after in pads],
            "stride": list(spatial(window.stride, 1)[3 - rank :]),
            "dilation": list(spatial(window.dilation, 1)[3 - rank :]),
        }

        def given(name: str, shape: tuple[list[int], list[int]]) -> Any:
            return graph.tensor(name=name, dim=shape[0], stride=shape[1], data_type=data)

        if which == "forward":
            parts = {"x": given("x", x), "w": given("w", w)}
            parts["y"] = graph.conv_fprop(image=parts["x"], weight=parts["w"], **options)
            made, shape = "y", y
        elif which == "backward_input":
            parts = {"y": given("y", y), "w": given("w", w)}
            parts["x"] = graph.conv_dgrad(loss=parts["y"], filter=parts["w"], **options)
            made, shape = "x", x
        else:
            parts = {"x": given("x", x), "y": given("y", y)}
            parts["w"] = graph.conv_wgrad(image=parts["x"], loss=parts["y"], **options)
            made, shape = "w", w
        parts[made].set_output(True).set_dim(shape[0]).set_stride(shape[1]).set_data_type(data)
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        notes = [cudnn.numerical_note.NONDETERMINISTIC]
        if dtype == "float32" and not tf32:  # TF32 is what tensor cores do to float32
            notes += [cudnn.numerical_note.TENSOR_CORE, cudnn.numerical_note.DOWN_CONVERT_INPUTS]
        graph.deselect_numeric_notes(notes)
        graph.deselect_workspace_greater_than(_MOST_WORKSPACE)
        graph.check_support()
        graph.build_plans(cudnn.build_plan_policy.HEURISTICS_CHOICE)
        self._graph, self._parts = graph, parts
        self.measured = measure
        self._plan: int | None = None
        self._workspace = int(graph.get_workspace_size())
        if measure:
            sizes = {name: math.prod(lengths) for name, (lengths, _) in {"x": x, "y": y, "w": w}.items()}
            self._choose(cudnn, {name: cupy.zeros(size, dtype) for name, size in sizes.items()})

    def _choose(self, cudnn: Any, arrays: dict[str, Any]) -> None:
        """Keep the plan that runs fastest on such arrays, of those that the heuristics think most of."""
        best = math.inf
        pointers = {name: int(array.data.ptr) for name, array in arrays.items()}
        for index in range(min(self._graph.get_execution_plan_count(), _MOST_PLANS)):
            try:
                self._graph.build_plan_at_index(index)
                workspace = int(self._graph.get_workspace_size_plan_at_index(index))
                for turn in range(4):  # the first one is not counted
                    cupy.cuda.get_current_stream().synchronize()
                    start = time.perf_counter()
                    self._execute(cudnn, pointers, index, workspace)
                    cupy.cuda.get_current_stream().synchronize()
                    seconds = time.perf_counter() - start
                    if turn and seconds < best:
                        best, self._plan, self._workspace = seconds, index, workspace
            except (RuntimeError, ValueError, cudnn.cudnnGraphNotSupportedError):
                continue  # a plan that cannot be built, was deselected, or cannot run
        if self._plan is None:
            raise RuntimeError("none of its plans runs")

    def _execute(self, cudnn: Any, pointers: dict[str, int], plan: int | None, workspace: int) -> None:
        handle = _handle(cudnn)
        space = cupy.empty(max(workspace, 1), "uint8")  # CuPy's pool gives it to nobody before this stream is past it
        pack = {self._parts[name]: pointer for name, pointer in pointers.items()}
        if plan is None:
            self._graph.execute(pack, int(space.data.ptr), handle=handle)
        else:
            self._graph.execute_plan_at_index(pack, int(space.data.ptr), plan, handle=handle)

    def run(self, x: Any, weight: Any, y: Any) -> None:
        pointers = {"x": int(x.data.ptr), "w": int(weight.data.ptr), "y": int(y.data.ptr)}
        self._execute(_library(), pointers, self._plan, self._workspace)


def _graph(*problem: Any) -> Any:
    """The graph of a problem on the current device, or the reason why cuDNN declines it."""
    cudnn = _library()
    if isinstance(cudnn, str):
        return cudnn
    measure = tuning.measuring()
    key = (int(cupy.cuda.get_device_id()), threading.get_ident(), *problem)
    with _lock:
        made = _graphs.get(key)
        if made is not None and (not measure or isinstance(made, str) or made.measured):
            _graphs.move_to_end(key)
            return made
    try:
        made = Graph(cudnn, measure, *problem)
    except MemoryError:
        raise
    except Exception as error:  # whatever it is that cuDNN does not like: our own kernels do it
        made = f"cuDNN declines: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
    with _lock:
        _graphs[key] = made
        _graphs.move_to_end(key)
        while len(_graphs) > _MOST_GRAPHS:
            _graphs.popitem(last=False)
    return made


def declined(which: str, dtype: str, channels_last: bool, batch: int, *rest: Any) -> str | None:
    """Why cuDNN does not do a problem, or None."""
    if not batch:
        return "there is nothing to compute"
    made = _graph(which, dtype, channels_last, batch, *rest)
    return made if isinstance(made, str) else None


class Runner:
    """A graph by its problem: each thread and device has its own, and one that was dropped is built again."""

    __slots__ = ("_last", "_problem", "_which")

    def __init__(self, which: str, *problem: Any) -> None:
        self._which, self._problem = which, problem
        self._last = bool(problem[1]) and math.prod(problem[6].kernel) > 1

    def run(self, x: Any, weight: Any, y: Any) -> None:
        """Run it: of x, weight and y one is written."""
        graph = _graph(self._which, *self._problem)
        if isinstance(graph, str):
            raise RuntimeError(graph)
        if not self._last:
            graph.run(x, weight, y)
            return
        # cuDNN wants the weights' channels last where the image's are; ours never are.
        turned = cupy.ascontiguousarray(cupy.moveaxis(weight, 1, -1))
        graph.run(x, turned, y)
        if self._which == "backward_weight":
            weight[...] = cupy.moveaxis(turned, -1, 1)
