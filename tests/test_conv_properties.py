"""conv2d and conv2d_backward on shapes that nobody chose."""

from __future__ import annotations

import numpy as np
from conv_cases import ISAS, LAYOUTS, PASSES, Case, algorithms, assert_right, compute, data_for, instruction_set
from hypothesis import HealthCheck, assume, given, settings, strategies as st

import fastconv as fc

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])

# Products per pass: the reference takes some ns for each.
MOST_WORK = 400_000


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Kernels past the input, steps past the kernel, gaps, groups, lone pixels, up to 70 channels, uneven padding."""
    groups = draw(st.one_of(st.just(1), st.integers(1, 5), st.integers(1, 35)))
    most = max(1, 70 // groups)
    edges = st.sampled_from([n for n in (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65) if n <= most])
    channels, filters = (groups * draw(st.one_of(edges, st.integers(1, most))) for _ in range(2))
    kernel = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    if draw(st.booleans()):
        kernel = (kernel[0], kernel[0])
    stride = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 5), st.integers(1, 5))))
    dilation = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 4), st.integers(1, 4))))
    plane = draw(st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 9), st.integers(1, 24))))
    reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    padding = tuple((draw(st.integers(0, r + 2)), draw(st.integers(0, r + 2))) for r in reach)
    # what is missing to one window goes after
    padding = tuple(
        (before, max(after, r + 1 - n - before)) for (before, after), r, n in zip(padding, reach, plane, strict=True)
    )
    case = Case(draw(st.integers(0, 3)), channels, plane, filters, kernel, stride, padding, dilation, groups)
    taps = case.w_shape[1] * kernel[0] * kernel[1]
    assume(np.prod(case.y_shape()) * taps <= MOST_WORK and np.prod(case.x_shape()) * taps <= MOST_WORK)
    return case


dtypes = st.sampled_from(["float32", "float64"])
layouts = st.sampled_from(LAYOUTS)
isas = st.sampled_from(ISAS)


@settings(unhurried, max_examples=150)
@given(cases(), dtypes, layouts, isas, st.integers(1, 3), st.integers(0, 2**32))
def test_every_algorithm_is_exact_on_whole_numbers(
    case: Case, dtype: str, layout: str, isa: str, threads: int, seed: int
) -> None:
    data = data_for(case, dtype, layout, integers=True, seed=seed)
    with instruction_set(isa), fc.threads(threads):
        for which in PASSES:
            for algorithm in algorithms(which, case, data, layout):
                results = compute(which, case, data, layout, algorithm)
                for actual, expected in zip(results, data.expected[which], strict=True):
                    assert_right(actual, expected, dtype, algorithm, exact=True, what=(which, algorithm))


@settings(unhurried, max_examples=80)
@given(cases(), dtypes, layouts, isas, st.integers(0, 2**32))
def test_no_element_errs_more_than_summation_may(case: Case, dtype: str, layout: str, isa: str, seed: int) -> None:
    """Element by element: m products summed in any order err by at most (m + 1) u sum |a b| (Higham, Accuracy and
    Stability of Numerical Algorithms, 2nd ed., section 3.1); the oracle adds its own share in float64."""
    data = data_for(case, dtype, layout, integers=False, seed=seed)
    assume(case.batch > 0)
    oracle = case.oracle(layout)
    x, weight, bias, dy = (np.abs(array) for array in (data.x, data.weight, data.bias, data.dy))
    most = {
        "forward": (oracle.forward(x, weight, bias),),
        "backward_input": (oracle.backward_input(dy, x.shape, weight),),
        "backward_weight": (oracle.backward_weight(dy, x, weight.shape), oracle.backward_bias(dy)),
    }
    unit = float(np.finfo(dtype).eps) / 2 + float(np.finfo(np.float64).eps) / 2
    with instruction_set(isa):
        for which in PASSES:
            for algorithm in algorithms(which, case, data, layout):
                if algorithm == "winograd":
                    continue
                results = compute(which, case, data, layout, algorithm)
                for actual, expected, bound in zip(results, data.expected[which], most[which], strict=True):
                    excess = np.abs(actual - expected) - (case.depth + 2) * unit * bound
                    assert excess.max(initial=0) <= 0, (which, algorithm)


@settings(unhurried, max_examples=80)
@given(cases(), layouts, st.integers(0, 2**32))
def test_forward_and_gradients_are_adjoint(case: Case, layout: str, seed: int) -> None:
    """<dy, conv(x, w)> = <dx, x> = <dw, w>, with whole numbers and without an oracle."""
    random = np.random.default_rng(seed)
    shapes = case.y_shape(layout), case.x_shape(layout), case.w_shape
    dy, x, weight = (random.integers(-2, 3, shape).astype(np.float64) for shape in shapes)
    options = case.options | {"layout": layout}
    names = {
        which: next(a for a in fc.algorithms(x, weight, which=which, **options) if a != "winograd") for which in PASSES
    }
    y = fc.conv2d(x, weight, algorithm=names["forward"], **options)
    dx = fc.conv2d_backward(dy, x, weight, algorithm=names["backward_input"], needs=(True, False, False), **options)[0]
    dw = fc.conv2d_backward(dy, x, weight, algorithm=names["backward_weight"], needs=(False, True, False), **options)[1]
    assert np.vdot(dy, y) == np.vdot(dx, x) == np.vdot(dw, weight)


@settings(unhurried, max_examples=80)
@given(cases(), layouts, st.integers(2, 8))
def test_results_do_not_depend_on_threads(case: Case, layout: str, threads: int) -> None:
    data = data_for(case, "float32", layout, integers=False)
    for which in PASSES:
        with fc.threads(1):
            one = compute(which, case, data, layout)
        with fc.threads(threads):
            many = compute(which, case, data, layout)
        assert [a.tobytes() for a in one] == [a.tobytes() for a in many], which
