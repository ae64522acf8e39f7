"""Pooling to a size that is given: adaptive, global, and spatial pyramids of it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastconv.backends import backend_of, narrowed, planned, widened
from fastconv.devices import array_namespace
from fastconv.geometry import axes, check_layout, window
from fastconv.pooling import max_pool2d_backward

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "global_max_pool2d",
    "global_max_pool2d_backward",
    "spatial_pyramid_pool2d",
    "spatial_pyramid_pool2d_backward",
]


class _Planned(NamedTuple):
    run: Any
    y_shape: tuple[int, ...]
    whole: bool  # planes lie in one piece and are averaged as a whole


@planned
def _plan(
    backend: ModuleType, x_shape: tuple[int, ...], dtype: np.dtype, output: tuple[int, ...], layout: Any
) -> _Planned:
    channels_last = check_layout(layout, 2)
    channels, spatial = (x_shape[3], x_shape[1:3]) if channels_last else (x_shape[1], x_shape[2:])
    if not all(spatial):
        raise ValueError(f"x: there is nothing to pool in planes of {spatial} (shape {x_shape}, {layout})")
    evenly = not any(n % o for n, o in zip(spatial, output, strict=True))
    if evenly:  # windows all alike, which have faster ways
        kernel = tuple(n // o for n, o in zip(spatial, output, strict=True))
        place = window(spatial, kernel, kernel)
    else:
        place = replace(window(spatial, (1, 1)), output=output)
    wide = math.prod(spatial) >= 2**31
    run = backend.pool_plan(dtype.name, channels_last, x_shape[0], channels, place, False, wide, not evenly)
    y_shape = (x_shape[0], *output, channels) if channels_last else (x_shape[0], channels, *output)
    whole = output == (1, 1) and x_shape[0] * channels > 0 and (not channels_last or channels == 1)
    return _Planned(run, y_shape, whole)


def _output(output_size: Any, spatial: tuple[int, ...]) -> tuple[int, ...]:
    """An output size, None standing for the input's."""
    if hasattr(output_size, "__len__") and len(output_size) == 2:
        output_size = tuple(n if o is None else o for o, n in zip(output_size, spatial, strict=True))
    return axes(output_size, "output_size", 2)


def _prepare(x: Any, name: str, output_size: Any, layout: str, function: str) -> tuple[Any, Any, _Planned]:
    backend = backend_of(x, function)
    x = backend.dense(x, name, 4)
    spatial = x.shape[1:3] if check_layout(layout, 2) else x.shape[2:]
    return backend, x, _plan(backend, x.shape, x.dtype, _output(output_size, spatial), layout)


def adaptive_avg_pool2d(x: Any, output_size: Any, *, layout: str = "NCHW") -> Any:
    """Average so that planes of a given size come out.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    output_size : int or (int, int)
        Height and width of the result; None in a pair leaves that axis as it is.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, shape (N, C, H', W') or (N, H', W', C)
        Row o averages the rows from ``floor(o * H / H')`` to before ``ceil((o + 1) * H / H')`` (PyTorch's rule),
        columns alike: windows overlap where the sizes do not divide.

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong, or planes are empty.

    References
    ----------
    `spatial_pyramid_pool2d`'s, of which this is one level, with averages.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.adaptive_avg_pool2d(np.arange(5.0).reshape(1, 1, 1, 5), (1, 2)).ravel()
    array([1., 3.])
    """
    backend, x, plan = _prepare(x, "x", output_size, layout, "adaptive_avg_pool2d")
    y = backend.empty(plan.y_shape, x.dtype)
    if plan.whole:
        backend.plane_means(x, y)
    else:
        plan.run.avg(x, y)
    return y


def adaptive_avg_pool2d_backward(dy: Any, input_shape: tuple[int, ...], *, layout: str = "NCHW") -> Any:
    """Gradient of `adaptive_avg_pool2d`, whose output size is dy's.

    Parameters
    ----------
    dy : array, shape (N, C, H', W') or (N, H', W', C)
    input_shape : tuple of int
        The shape of what was pooled.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, shape input_shape

    Raises
    ------
    TypeError
        If dy is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or an option is wrong.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.adaptive_avg_pool2d_backward(np.array([3.0, 6.0]).reshape(1, 1, 1, 2), (1, 1, 1, 5)).ravel()
    array([1., 1., 3., 2., 2.])
    """
    backend = backend_of(dy, "adaptive_avg_pool2d_backward")
    dy = backend.dense(dy, "dy", 4)
    output = dy.shape[1:3] if check_layout(layout, 2) else dy.shape[2:]
    if not hasattr(input_shape, "__len__") or len(input_shape) != 4:
        raise ValueError(f"input_shape: expected the 4 axes of the pooled array, got {input_shape!r}")
    shape = axes(input_shape, "input_shape", 4, 0)
    plan = _plan(backend, shape, dy.dtype, axes(output, "dy's shape", 2), layout)
    if dy.shape != plan.y_shape:
        raise ValueError(f"dy: expected the batch and channels of input_shape {shape} ({layout}), got shape {dy.shape}")
    dx = backend.empty(shape, dy.dtype)
    if plan.whole:
        backend.plane_means_backward(dy, dx)
    else:
        plan.run.avg_backward(dy, dx)
    return dx


def adaptive_max_pool2d(x: Any, output_size: Any, *, return_switches: bool = False, layout: str = "NCHW") -> Any:
    """Take maxima so that planes of a given size come out.

    Parameters
    ----------
    x, output_size, layout
        As `adaptive_avg_pool2d` takes them, with the same windows.
    return_switches : bool
        Return where the maxima are, too; `adaptive_max_pool2d_backward` needs it.

    Returns
    -------
    y : array, shape (N, C, H', W') or (N, H', W', C)
    switches : array of int32, y's shape
        Only if return_switches; as `max_pool2d` gives them.

    Raises
    ------
    TypeError, ValueError
        As `adaptive_avg_pool2d` does.

    References
    ----------
    `spatial_pyramid_pool2d`'s, of which this is one level.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.adaptive_max_pool2d(np.arange(5.0).reshape(1, 1, 1, 5), (1, 2)).ravel()
    array([2., 4.])
    """
    backend, x, plan = _prepare(x, "x", output_size, layout, "adaptive_max_pool2d")
    y = backend.empty(plan.y_shape, x.dtype)
    switches = backend.empty(plan.y_shape, plan.run.switch_dtype) if return_switches else None
    plan.run.max(x, y, switches)
    return (y, switches) if return_switches else y


def adaptive_max_pool2d_backward(dy: Any, switches: Any, input_shape: tuple[int, ...], *, layout: str = "NCHW") -> Any:
    """Gradient of `adaptive_max_pool2d`: that of `max_pool2d`, since switches say all.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> y, switches = fc.adaptive_max_pool2d(np.arange(5.0).reshape(1, 1, 1, 5), (1, 2), return_switches=True)
    >>> fc.adaptive_max_pool2d_backward(np.ones_like(y), switches, (1, 1, 1, 5)).ravel()
    array([0., 0., 1., 0., 1.])
    """
    return max_pool2d_backward(dy, switches, input_shape, layout=layout)


def global_avg_pool2d(x: Any, *, layout: str = "NCHW") -> Any:
    """Average each plane.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, shape (N, C, 1, 1) or (N, 1, 1, C)

    Raises
    ------
    TypeError
        If x is not an array of float32, float64, float16 or bfloat16.
    ValueError
        If a shape or the layout is wrong, or planes are empty.

    References
    ----------
    Lin, Chen & Yan, "Network in network" (2014), section 3.2.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.global_avg_pool2d(np.arange(8.0).reshape(1, 2, 2, 2)).ravel()
    array([1.5, 5.5])
    """
    return adaptive_avg_pool2d(x, 1, layout=layout)


def global_avg_pool2d_backward(dy: Any, input_shape: tuple[int, ...], *, layout: str = "NCHW") -> Any:
    """Gradient of `global_avg_pool2d`: dy over the number of pixels, everywhere.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.global_avg_pool2d_backward(np.full((1, 1, 1, 1), 4.0), (1, 1, 2, 2)).ravel()
    array([1., 1., 1., 1.])
    """
    return adaptive_avg_pool2d_backward(dy, input_shape, layout=layout)


def global_max_pool2d(x: Any, *, return_switches: bool = False, layout: str = "NCHW") -> Any:
    """Take each plane's maximum; arguments and errors as `global_avg_pool2d`'s, switches as `max_pool2d`'s.

    References
    ----------
    Oquab, Bottou, Laptev & Sivic, "Is object localization for free?" (2015), section 3.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.global_max_pool2d(np.arange(8.0).reshape(1, 2, 2, 2)).ravel()
    array([3., 7.])
    """
    return adaptive_max_pool2d(x, 1, return_switches=return_switches, layout=layout)


def global_max_pool2d_backward(dy: Any, switches: Any, input_shape: tuple[int, ...], *, layout: str = "NCHW") -> Any:
    """Gradient of `global_max_pool2d`: that of `max_pool2d`, since switches say all.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> y, switches = fc.global_max_pool2d(np.arange(4.0).reshape(1, 1, 2, 2), return_switches=True)
    >>> fc.global_max_pool2d_backward(np.ones_like(y), switches, (1, 1, 2, 2)).ravel()
    array([0., 0., 0., 1.])
    """
    return max_pool2d_backward(dy, switches, input_shape, layout=layout)


def _levels(levels: Any) -> tuple[int, ...]:
    if not hasattr(levels, "__len__") or isinstance(levels, (str, bytes)) or not len(levels):
        raise ValueError(f"levels: expected numbers of windows per axis such as (1, 2, 4), got {levels!r}")
    return tuple(axes(level, "levels", 1)[0] for level in levels)


def spatial_pyramid_pool2d(x: Any, levels: Any, *, return_switches: bool = False, layout: str = "NCHW") -> Any:
    """Maxima over grids of several sizes, in one row: as many features whatever the image's size.

    Parameters
    ----------
    x : array, shape (N, C, H, W) or (N, H, W, C)
        float32, float64, float16 or bfloat16, laid out as `layout` says.
    levels : sequence of int
        Windows per axis of each grid, such as (1, 2, 4).
    return_switches : bool
        Return where the maxima are, too; `spatial_pyramid_pool2d_backward` needs it.
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    y : array, shape (N, C * sum(level**2))
        Level after level, each laid out as `adaptive_max_pool2d` returns it.
    switches : list of arrays
        Only if return_switches; one for each level.

    Raises
    ------
    TypeError, ValueError
        As `adaptive_max_pool2d` does.

    Notes
    -----
    The windows are those of `adaptive_max_pool2d`; the paper's, ``ceil(n / level)`` wide every ``floor(n / level)``, do
    not always come to `level`.

    References
    ----------
    He, Zhang, Ren & Sun, "Spatial pyramid pooling in deep convolutional networks" (2014).

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.spatial_pyramid_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), (1, 2))
    array([[8., 4., 5., 7., 8.]])
    """
    grids = [adaptive_max_pool2d(x, n, return_switches=return_switches, layout=layout) for n in _levels(levels)]
    maxima = [grid[0] for grid in grids] if return_switches else grids
    rows = [grid.reshape(grid.shape[0], math.prod(grid.shape[1:])) for grid in maxima]
    y = array_namespace(rows[0]).concatenate(rows, axis=1)
    return (y, [switches for _, switches in grids]) if return_switches else y


def spatial_pyramid_pool2d_backward(
    dy: Any, switches: Any, input_shape: tuple[int, ...], *, layout: str = "NCHW"
) -> Any:
    """Gradient of `spatial_pyramid_pool2d` with respect to its input.

    Parameters
    ----------
    dy : array, shape (N, C * sum(level**2))
    switches : list of arrays
        What spatial_pyramid_pool2d returned.
    input_shape : tuple of int
    layout : {"NCHW", "NHWC"}

    Returns
    -------
    array, shape input_shape

    Raises
    ------
    TypeError, ValueError
        As `max_pool2d_backward` does.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> y, switches = fc.spatial_pyramid_pool2d(np.arange(9.0).reshape(1, 1, 3, 3), (1, 2), return_switches=True)
    >>> fc.spatial_pyramid_pool2d_backward(np.ones_like(y), switches, (1, 1, 3, 3)).ravel()
    array([0., 0., 0., 0., 1., 1., 0., 1., 2.])
    """
    stored = backend_of(dy, "spatial_pyramid_pool2d_backward").dense(dy, "dy", 2)
    dy = widened(stored)
    backend = backend_of(dy, "spatial_pyramid_pool2d_backward")
    sizes = [math.prod(s.shape[1:]) for s in switches]
    if dy.shape[1] != sum(sizes):
        raise ValueError(f"dy: expected {sum(sizes)} features, as the switches have, got shape {dy.shape}")
    dx, at = None, 0
    for chosen, size in zip(switches, sizes, strict=True):
        part = dy[:, at : at + size].reshape(len(dy), *chosen.shape[1:])
        level = max_pool2d_backward(part, chosen, input_shape, layout=layout)
        dx = level if dx is None else backend.map_elements("mix", dx, level, 1, 1)
        at += size
    return narrowed(dx, stored.dtype)
