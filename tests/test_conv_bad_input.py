"""Wrong arguments to conv2d and conv2d_backward: each has its error, which names the argument; nothing crashes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastconv as fc
from fastconv import _native
from fastconv.geometry import Window


def good(dtype: str = "float32") -> dict[str, Any]:
    """Arguments that are right; tests spoil one."""
    return {
        "x": np.ones((2, 4, 6, 7), dtype),
        "weight": np.ones((6, 4, 3, 3), dtype),
        "bias": np.ones(6, dtype),
    }


def good_backward() -> dict[str, Any]:
    return {"dy": np.ones((2, 6, 4, 5), np.float32), "x": good()["x"], "weight": good()["weight"]}


def call(arguments: dict[str, Any]) -> Any:
    positional = [arguments.pop(name) for name in ("x", "weight", "bias")]
    return fc.conv2d(*positional, **arguments)


def call_backward(arguments: dict[str, Any]) -> Any:
    positional = [arguments.pop(name) for name in ("dy", "x", "weight")]
    return fc.conv2d_backward(*positional, **arguments)


def f32(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


# Argument, value, the error, and what its message must contain (besides the argument's name, which it begins with).
OPTIONS = [
    ("stride", 0, ValueError, "0"),
    ("stride", -1, ValueError, "-1"),
    ("stride", (1, 0), ValueError, "0"),
    ("stride", 1.5, TypeError, "1.5"),
    ("stride", 2.0, TypeError, "2.0"),
    ("stride", np.float32(1), TypeError, "integer"),
    ("stride", "2", TypeError, "'2'"),
    ("stride", None, TypeError, "None"),
    ("stride", True, TypeError, "True"),
    ("stride", (1,), ValueError, "(1,)"),
    ("stride", (1, 2, 3), ValueError, "(1, 2, 3)"),
    ("stride", ((1, 1), (1, 1)), TypeError, "(1, 1)"),
    ("stride", 2**70, ValueError, str(2**70)),
    ("stride", {1, 2}, (TypeError, ValueError), "{1, 2}"),
    ("stride", {1: 1, 2: 2}, (TypeError, ValueError), "{1: 1, 2: 2}"),
    ("stride", float("nan"), TypeError, "nan"),
    ("dilation", 0, ValueError, "0"),
    ("dilation", -2, ValueError, "-2"),
    ("dilation", 1.0, TypeError, "1.0"),
    ("dilation", (2, 2, 2), ValueError, "(2, 2, 2)"),
    ("dilation", None, TypeError, "None"),
    ("padding", -1, ValueError, "-1"),
    ("padding", (0, -1), ValueError, "-1"),
    ("padding", ((0, 0), (0, -3)), ValueError, "-3"),
    ("padding", 0.5, TypeError, "0.5"),
    ("padding", None, TypeError, "None"),
    ("padding", (1,), ValueError, "(1,)"),
    ("padding", (1, 1, 1), ValueError, "(1, 1, 1)"),
    ("padding", ((1, 1, 1), (1, 1)), ValueError, "(1, 1, 1)"),
    ("padding", ((1,), (1,)), ValueError, "(1,)"),
    ("padding", "SAME", ValueError, '"same"'),
    ("padding", "circular", ValueError, '"same"'),
    ("padding", "", ValueError, '"same"'),
    ("padding", b"same", TypeError, "b'same'"),
    ("padding", {1, 2}, (TypeError, ValueError), "{1, 2}"),
    ("padding", ("same", "same"), (TypeError, ValueError), "same"),
    ("padding", 2**70, ValueError, str(2**70)),
    ("groups", 0, ValueError, "0"),
    ("groups", -1, ValueError, "-1"),
    ("groups", 3, ValueError, "3"),
    ("groups", 2**40, ValueError, str(2**40)),
    ("groups", 1.0, TypeError, "1.0"),
    ("groups", "1", TypeError, "'1'"),
    ("groups", None, TypeError, "None"),
    ("groups", (1, 1), (TypeError, ValueError), "(1, 1)"),
    ("algorithm", "fast", ValueError, "'im2col'"),
    ("algorithm", "", ValueError, "'auto'"),
    ("algorithm", "AUTO", ValueError, "'auto'"),
    ("algorithm", None, (TypeError, ValueError), "None"),
    ("algorithm", 3, (TypeError, ValueError), "3"),
    ("algorithm", ["im2col"], (TypeError, ValueError), "im2col"),
    ("layout", "nchw", ValueError, "'NCHW' or 'NHWC'"),
    ("layout", "NCW", ValueError, "'NCHW' or 'NHWC'"),
    ("layout", None, (TypeError, ValueError), "None"),
    ("layout", ["NCHW"], (TypeError, ValueError), "NCHW"),
]

ARRAYS = [
    ("x", [[[[1.0]]]], TypeError, "list"),
    ("x", None, TypeError, "NoneType"),
    ("x", 1.0, TypeError, "float"),
    ("x", "image.png", TypeError, "str"),
    ("x", np.float32(1), ValueError, "4"),
    ("x", f32(4, 6, 7), ValueError, "(4, 6, 7)"),
    ("x", f32(2, 4, 1, 6, 7), ValueError, "(2, 4, 1, 6, 7)"),
    ("x", np.ones((2, 4, 6, 7), np.int64), TypeError, "int64"),
    ("x", np.ones((2, 4, 6, 7), np.uint8), TypeError, "uint8"),
    ("x", np.ones((2, 4, 6, 7), bool), TypeError, "bool"),
    ("x", np.ones((2, 4, 6, 7), complex), TypeError, "complex128"),
    ("x", np.ones((2, 4, 6, 7), np.longdouble), TypeError, str(np.dtype(np.longdouble))),
    ("x", np.ones((2, 4, 6, 7), object), TypeError, "object"),
    ("x", np.full((2, 4, 6, 7), "1"), TypeError, "<U1"),
    ("x", np.ones((2, 4, 6, 7), "datetime64[s]"), TypeError, "datetime64"),
    ("x", np.ones((2, 4, 6, 7), [("a", np.float32)]), TypeError, "a"),
    ("x", np.ma.masked_array(f32(2, 4, 6, 7)), TypeError, "filled"),
    ("weight", [1.0], TypeError, "list"),
    ("weight", None, TypeError, "NoneType"),
    ("weight", f32(6, 4, 3), ValueError, "(6, 4, 3)"),
    ("weight", f32(6, 5, 3, 3), ValueError, "(6, 5, 3, 3)"),
    ("weight", f32(6, 1, 3, 3), ValueError, "(6, 1, 3, 3)"),
    ("weight", f32(0, 4, 3, 3), ValueError, "(0, 4, 3, 3)"),
    ("weight", f32(6, 4, 0, 3), ValueError, "(6, 4, 0, 3)"),
    ("weight", np.ones((6, 4, 3, 3)), TypeError, "float64.*x.*float32"),
    ("weight", np.ones((6, 4, 3, 3), np.int32), TypeError, "int32"),
    ("bias", [1.0] * 6, TypeError, "list"),
    ("bias", 1.0, TypeError, "float"),
    ("bias", f32(5), ValueError, "(5,)"),
    ("bias", f32(1), ValueError, "(1,)"),
    ("bias", f32(6, 1), ValueError, "(6, 1)"),
    ("bias", f32(1, 6, 1, 1), ValueError, "(1, 6, 1, 1)"),
    ("bias", np.ones(6), TypeError, "float64.*x.*float32"),
]


def expect(error: Any, name: str, text: str, call: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(error) as caught:
        call(arguments)
    message = str(caught.value)
    assert message.startswith(f"{name}: "), message
    parts = text.split(".*")
    assert all(part in message for part in parts), message


def _id(value: Any) -> str:
    return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else repr(value)[:30]


@pytest.mark.parametrize(("name", "value", "error", "text"), OPTIONS, ids=_id)
def test_options(name: str, value: Any, error: Any, text: str) -> None:
    expect(error, name, text, call, good() | {name: value})
    expect(error, name, text, call_backward, good_backward() | {name: value})


@pytest.mark.parametrize(("name", "value", "error", "text"), ARRAYS, ids=_id)
def test_arrays(name: str, value: Any, error: Any, text: str) -> None:
    expect(error, name, text, call, good() | {name: value})
    if name != "bias":
        expect(error, name, text, call_backward, good_backward() | {name: value})


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ([1.0], TypeError, "list"),
        (None, TypeError, "NoneType"),
        (f32(2, 6, 4), ValueError, "(2, 6, 4)"),
        (f32(2, 6, 4, 4), ValueError, "(2, 6, 4, 5)"),
        (f32(1, 6, 4, 5), ValueError, "(2, 6, 4, 5)"),
        (f32(2, 5, 4, 5), ValueError, "(2, 6, 4, 5)"),
        (f32(2, 4, 5, 6), ValueError, "(2, 6, 4, 5)"),
        (f32(0, 6, 4, 5), ValueError, "(2, 6, 4, 5)"),
        (np.ones((2, 6, 4, 5)), TypeError, "float64.*x.*float32"),
        (np.ones((2, 6, 4, 5), int), TypeError, "int64"),
    ],
    ids=_id,
)
def test_dy(value: Any, error: Any, text: str) -> None:
    expect(error, "dy", text, call_backward, good_backward() | {"dy": value})


@pytest.mark.parametrize("value", [True, None, (True,), (True, True), (True,) * 4, "yes", "all", 3], ids=repr)
def test_needs(value: Any) -> None:
    expect((TypeError, ValueError), "needs", "three", call_backward, good_backward() | {"needs": value})


def _swapped(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder())


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        ([1.0], TypeError, "list"),
        (1.0, TypeError, "float"),
        (f32(2, 6, 4, 5).view(type("Special", (np.ndarray,), {})), TypeError, "Special"),
        (np.ones((2, 6, 4, 5)), TypeError, "float64"),
        (np.ones((2, 6, 4, 5), np.int32), TypeError, "int32"),
        (_swapped(f32(2, 6, 4, 5)), TypeError, "f4"),
        (f32(2, 6, 4, 4), ValueError, "(2, 6, 4, 5)"),
        (f32(2, 6, 20), ValueError, "(2, 6, 4, 5)"),
        (f32(240), ValueError, "(2, 6, 4, 5)"),
        (f32(2, 6, 5, 4).swapaxes(2, 3), ValueError, "contiguous"),
        (f32(2, 6, 4, 10)[..., ::2], ValueError, "contiguous"),
        (f32(2, 6, 4, 5)[::-1], ValueError, "contiguous"),
        (np.broadcast_to(f32(1, 6, 4, 5), (2, 6, 4, 5)), ValueError, "writable"),
        (np.ones(961, np.uint8)[1:].view(np.float32).reshape(2, 6, 4, 5), ValueError, "aligned"),
    ],
    ids=_id,
)
def test_out(out: Any, error: Any, text: str) -> None:
    before = np.array(out)
    expect(error, "out", text, call, good() | {"out": out})
    np.testing.assert_array_equal(out, before)


def test_out_must_not_be_read_only() -> None:
    out = f32(2, 6, 4, 5)
    out.flags.writeable = False
    expect(ValueError, "out", "writable", call, good() | {"out": out})


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_out_must_not_overlap_an_input(name: str) -> None:
    arguments = good()
    space = np.ones(400, np.float32)
    shape = arguments[name].shape
    size = arguments[name].size
    out = space[:240].reshape(2, 6, 4, 5)
    arguments[name] = space[239 : 239 + min(size, 160)] if size <= 160 else None
    if arguments[name] is None:
        space = np.ones(240 + size, np.float32)
        out = space[:240].reshape(2, 6, 4, 5)
        arguments[name] = space[239 : 239 + size]
    arguments[name] = arguments[name].reshape(shape)
    expect(ValueError, "out", "memory", call, arguments | {"out": out})
    np.testing.assert_array_equal(space, 1)


def test_an_array_of_its_own_inputs_may_be_in_one_piece() -> None:
    """Inputs may share memory with each other."""
    space = np.arange(400, dtype=np.float32)
    x, weight = space[:336].reshape(2, 4, 6, 7), space[100:316].reshape(6, 4, 3, 3)
    np.testing.assert_array_equal(fc.conv2d(x, weight), fc.conv2d(x.copy(), weight.copy()))


# ---- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        (f32(1, 1, 2, 5), f32(1, 1, 3, 3), {}),
        (f32(1, 1, 5, 2), f32(1, 1, 3, 3), {}),
        (f32(1, 1, 5, 5), f32(1, 1, 3, 3), {"dilation": 3}),
        (f32(1, 1, 5, 5), f32(1, 1, 3, 3), {"dilation": 2**61}),
        (f32(1, 1, 5, 5), f32(1, 1, 9, 9), {"padding": 1}),
        (f32(1, 1, 0, 5), f32(1, 1, 1, 1), {}),
        (f32(1, 1, 5, 0), f32(1, 1, 1, 1), {"padding": 1}),
        (f32(0, 1, 2, 2), f32(1, 1, 3, 3), {}),
    ],
    ids=str,
)
def test_windows_that_do_not_fit(x: np.ndarray, weight: np.ndarray, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|less than 2"):
        fc.conv2d(x, weight, **options)
    with pytest.raises(ValueError, match=r"does not fit|less than 2"):
        fc.conv2d_backward(f32(1, 1, 1, 1), x, weight, **options)


def test_no_channels() -> None:
    with pytest.raises(ValueError, match=r"^weight: "):
        fc.conv2d(f32(1, 0, 5, 5), f32(2, 0, 3, 3))
    with pytest.raises(ValueError, match=r"^(x|weight): "):
        fc.conv2d(f32(1, 0, 5, 5), f32(2, 1, 3, 3))


@pytest.mark.parametrize(
    "amount", [2**23, 2**31 - 1, 2**31, 2**40, 2**59, 2**61, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64 + 1]
)
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("kernel", [1, 3])
def test_padding_beyond_memory(amount: int, batch: int, kernel: int) -> None:
    """Results that no machine holds, up to sizes that overflow 64 bits."""
    x, weight = f32(batch, 1, 3, 3), f32(1, 1, kernel, kernel)
    message = ""
    try:
        y = fc.conv2d(x, weight, padding=amount)
        assert batch == 0
        assert y.size == 0
    except MemoryError:
        return
    except ValueError as error:
        message = str(error)
    assert batch == 0 or "padding" in message


@pytest.mark.parametrize("amount", [2**31, 2**40, 2**56])
def test_steps_beyond_the_image(amount: int) -> None:
    """A huge stride has one place, a huge dilation of one tap means nothing."""
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    for algorithm in fc.algorithms(x, f32(1, 1, 2, 2), stride=amount):
        y = fc.conv2d(x, f32(1, 1, 2, 2), stride=amount, algorithm=algorithm)
        np.testing.assert_array_equal(y, [[[[0 + 1 + 3 + 4]]]])
    dx, dweight, dbias = fc.conv2d_backward(f32(1, 1, 1, 1), x, f32(1, 1, 2, 2), stride=amount)
    np.testing.assert_array_equal(dx[0, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(dweight[0, 0], [[0, 1], [3, 4]])
    np.testing.assert_array_equal(dbias, [1])
    for algorithm in fc.algorithms(x, f32(1, 1, 1, 1), dilation=amount):
        np.testing.assert_array_equal(fc.conv2d(x, f32(1, 1, 1, 1), dilation=amount, algorithm=algorithm), x)
    one_row = f32(1, 1, 1, 2)
    np.testing.assert_array_equal(fc.conv2d(x, one_row, dilation=(amount, 1)), fc.conv2d(x, one_row))


@pytest.mark.parametrize("name", ["stride", "dilation"])
@pytest.mark.parametrize("amount", [2**61, 2**62 - 1, 2**62, 2**63 - 1, 2**64 + 1])
def test_steps_beyond_numbers(name: str, amount: int) -> None:
    """What is too large to compute with is refused by name, or computed."""
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    message = name
    try:
        y = fc.conv2d(x, f32(1, 1, 1, 1), **{name: amount})
        np.testing.assert_array_equal(y, x[..., :1, :1] if name == "stride" else x)
    except ValueError as error:
        message = str(error)
    assert name in message


def _window(size: int, kernel: int, stride: int, dilation: int, pad: int) -> Window:
    pair = lambda value: (value, value)  # noqa: E731
    return Window(pair(size), pair(kernel), pair(stride), pair(dilation), (pair(pad), pair(pad)), (1, 1))


@pytest.mark.parametrize("which", [_native.FORWARD, _native.BACKWARD_INPUT, _native.BACKWARD_WEIGHT])
@pytest.mark.parametrize("huge", [2**31, 2**40, 2**57, 2**61, 2**62, 2**63 - 1])
@pytest.mark.parametrize("fields", list(itertools.combinations(range(8), 2)), ids=str)
def test_plans_of_overflowing_problems(fields: tuple[int, int], huge: int, which: int) -> None:
    """The C library's own check, past the Python layer's, with two sizes huge: a plan or an error, never a crash."""
    numbers = [1, 1, 1, 3, 1, 1, 1, 0]  # batch, channels, filters, size, kernel, stride, dilation, padding
    for field in fields:
        numbers[field] = huge
    batch, channels, filters, *window = numbers
    for last in (False, True):
        try:
            plan = _native.ConvPlan(which, "float64", last, batch, channels, filters, 1, _window(*window), "auto")
        except (ValueError, MemoryError):
            continue
        assert 0 <= plan.workspace(2) <= 2 * 64 << 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": -1},
        {"channels": 0},
        {"filters": 0},
        {"groups": 0},
        {"groups": 2},
        {"channels": -4},
        {"window": _window(3, 0, 1, 1, 0)},
        {"window": _window(3, 1, 0, 1, 0)},
        {"window": _window(3, 1, 1, 0, 0)},
        {"window": _window(3, 1, 1, 1, -1)},
        {"window": _window(0, 1, 1, 1, 1)},
        {"window": _window(3, 5, 1, 1, 0)},
        {"window": _window(-3, 1, 1, 1, 5)},
    ],
    ids=str,
)
def test_plans_of_senseless_problems(wrong: dict[str, Any]) -> None:
    sizes = {"batch": 1, "channels": 3, "filters": 3, "groups": 1, "window": _window(3, 1, 1, 1, 0)} | wrong
    with pytest.raises(ValueError):  # noqa: PT011
        _native.ConvPlan(_native.FORWARD, "float32", False, *sizes.values(), "auto")


def test_a_plan_refuses_arrays_that_are_not_its_own() -> None:
    """The last check before C: what a wrong caller inside the package would hit."""
    plan = _native.ConvPlan(_native.FORWARD, "float32", False, 1, 1, 1, 1, _window(3, 1, 1, 1, 0), "auto")
    x, weight, y = f32(1, 1, 3, 3), f32(1, 1, 1, 1), f32(1, 1, 3, 3)
    plan.run(x, weight, None, y, 1)
    read_only = y.copy()
    read_only.flags.writeable = False
    wrong = [
        (f32(1, 1, 3, 2), weight, None, y),
        (x.astype(np.float64), weight, None, y),
        (x.transpose(0, 1, 3, 2), weight, None, y),
        (x.astype(x.dtype.newbyteorder()), weight, None, y),
        (x, f32(2, 1, 1, 1), None, y),
        (x, weight, f32(2), y),
        (x, weight, None, f32(1, 1, 3, 4)),
        (x, weight, None, read_only),
        (None, weight, None, y),
        (x, None, None, y),
        (x, weight, None, None),
        ([1.0], weight, None, y),
    ]
    for arrays in wrong:
        with pytest.raises((TypeError, ValueError)):
            plan.run(*arrays, 1)
    with pytest.raises(ValueError, match="threads"):
        plan.run(x, weight, None, y, 0)


# ---- the rest ------------------------------------------------------------------------------------------------


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError):
        fc.conv2d(*good().values(), 1)
    with pytest.raises(TypeError, match="strides"):
        fc.conv2d(**good(), strides=2)


@pytest.mark.parametrize("function", [fc.algorithms, fc.explain])
def test_algorithms_and_explain(function: Any) -> None:
    x, weight = good()["x"], good()["weight"]
    with pytest.raises(ValueError, match=r"^which: .*'sideways'"):
        function(x, weight, which="sideways")
    with pytest.raises(TypeError, match="strides"):
        function(x, weight, strides=2)
    with pytest.raises(ValueError, match=r"^weight: "):
        function(x, f32(6, 5, 3, 3))
    with pytest.raises(TypeError, match=r"^x: "):
        function([1.0], weight)
    with pytest.raises(ValueError, match=r"^stride: "):
        function(x, weight, stride=0)


def test_after_all_that_it_still_works() -> None:
    for name, value, error, _ in OPTIONS:
        with pytest.raises(error):
            call(good() | {name: value})
    np.testing.assert_array_equal(call(good()), np.full((2, 6, 4, 5), 37, np.float32))
