"""As much of cuDNN's Python front end as fastconv uses: graphs of one convolution, computed on the CPU.

It takes pointers, and finds the elements by the lengths and strides that the graph was given: what is wrong with those
is seen in the result. Calls out of order are errors.
"""

from __future__ import annotations

import ctypes
import types

import numpy as np

import fastconv as fc

data_type = types.SimpleNamespace(FLOAT="float32", DOUBLE="float64", HALF="float16", BFLOAT16="bfloat16")
heur_mode = types.SimpleNamespace(A="A", B="B", FALLBACK="FALLBACK")
build_plan_policy = types.SimpleNamespace(HEURISTICS_CHOICE="HEURISTICS_CHOICE")
numerical_note = types.SimpleNamespace(
    NONDETERMINISTIC="NONDETERMINISTIC", TENSOR_CORE="TENSOR_CORE", DOWN_CONVERT_INPUTS="DOWN_CONVERT_INPUTS"
)
graphs: list[pygraph] = []  # built so far
executed: list[tuple[pygraph, int | None]] = []
declines = lambda graph: None  # noqa: E731  tests put a function here that says why a graph is declined


class cudnnGraphNotSupportedError(Exception):
    pass


def backend_version():
    return 91200


def create_handle():
    return types.SimpleNamespace(stream=None)


def set_stream(handle, stream):
    assert type(stream) is int
    handle.stream = stream


class Tensor:
    def __init__(self, dim=None, stride=None, data_type=None):
        self.dim, self.stride, self.data_type, self.output = dim, stride, data_type, False

    def set_output(self, value):
        self.output = value
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self

    def set_data_type(self, data_type):
        self.data_type = data_type
        return self

    def view(self, pointer):
        assert type(pointer) is int
        dtype = np.dtype(self.data_type)
        last = sum((n - 1) * step for n, step in zip(self.dim, self.stride)) + 1
        buffer = (ctypes.c_char * (last * dtype.itemsize)).from_address(pointer)
        flat = np.frombuffer(buffer, dtype)
        strides = [step * dtype.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(flat, self.dim, strides)


STEPS = ("validate", "build_operation_graph", "create_execution_plans", "deselect", "check_support", "build_plans")


class pygraph:
    def __init__(self, io_data_type, intermediate_data_type, compute_data_type, handle):
        assert compute_data_type == intermediate_data_type
        assert (compute_data_type == "float64") == (io_data_type == "float64")
        self.notes, self.plans, self._done = [], set(), 0

    def _step(self, name):
        assert STEPS.index(name) in (self._done, self._done - 1), name
        self._done = STEPS.index(name) + 1

    def tensor(self, name, dim, stride, data_type):
        assert len(dim) == len(stride) >= 4, "cuDNN has no 1-D convolution"
        return Tensor(dim, stride, data_type)

    def _convolution(self, which, x, w, y, pre_padding, post_padding, stride, dilation):
        rank = {len(value) for value in (pre_padding, post_padding, stride, dilation)}
        assert len(rank) == 1
        self.which, self.parts = which, (x, w, y)
        self.options = {
            "padding": tuple(zip(pre_padding, post_padding)),
            "stride": tuple(stride),
            "dilation": tuple(dilation),
        }

    def conv_fprop(self, image, weight, **options):
        y = Tensor()
        self._convolution("forward", image, weight, y, **options)
        return y

    def conv_dgrad(self, loss, filter, **options):
        x = Tensor()
        self._convolution("backward_input", x, filter, loss, **options)
        return x

    def conv_wgrad(self, image, loss, **options):
        w = Tensor()
        self._convolution("backward_weight", image, w, loss, **options)
        return w

    def validate(self):
        self._step("validate")
        assert [part.output for part in self.parts].count(True) == 1

    def build_operation_graph(self):
        self._step("build_operation_graph")

    def create_execution_plans(self, modes):
        assert modes == ["A", "FALLBACK"]
        self._step("create_execution_plans")
        if reason := declines(self):
            raise cudnnGraphNotSupportedError(reason)

    def deselect_numeric_notes(self, notes):
        self._step("deselect")
        self.notes = notes

    def deselect_workspace_greater_than(self, size):
        self._step("deselect")

    def check_support(self):
        self._step("check_support")

    def build_plans(self, policy):
        self._step("build_plans")
        assert policy == "HEURISTICS_CHOICE"
        graphs.append(self)

    def get_workspace_size(self):
        return 64

    def get_execution_plan_count(self):
        return 3

    def build_plan_at_index(self, index):
        if index == 0:
            raise cudnnGraphNotSupportedError("this plan cannot be built")
        self.plans.add(index)

    def get_workspace_size_plan_at_index(self, index):
        assert index in self.plans
        return 0

    def execute_plan_at_index(self, tensors, workspace, index, handle):
        assert index in self.plans
        self._run(tensors, workspace, index, handle)

    def execute(self, tensors, workspace, handle):
        self._run(tensors, workspace, None, handle)

    def _run(self, tensors, workspace, index, handle):
        assert self._done == len(STEPS)
        assert handle.stream is not None
        assert type(workspace) is int
        executed.append((self, index))
        x, w, y = (part.view(tensors[part]) for part in self.parts)
        rank = x.ndim - 2
        groups = x.shape[1] // w.shape[1]
        forward, backward = getattr(fc, f"conv{rank}d"), getattr(fc, f"conv{rank}d_backward")
        wide = "float64" if x.dtype == np.float64 else "float32"
        x_, w_, y_ = (np.ascontiguousarray(part).astype(wide) for part in (x, w, y))
        options = {**self.options, "groups": groups}
        if self.which == "forward":
            y[...] = forward(x_, w_, **options)
        elif self.which == "backward_input":
            x[...] = backward(y_, np.zeros_like(x_), w_, needs=(True, False, False), **options)[0]
        else:
            w[...] = backward(y_, x_, np.zeros_like(w_), needs=(False, True, False), **options)[1]
