"""Convolution as mathematicians mean it: the kernel is turned round. For single images, as SciPy has it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from fastconv.arrays import check_needs, same_dtype
from fastconv.backends import backend_of
from fastconv.conv import conv2d, conv2d_backward

__all__ = ["convolve2d", "convolve2d_backward"]

Padding = tuple[tuple[int, int], tuple[int, int]]


def _prepare(backend: ModuleType, image: Any, kernel: Any, mode: Any) -> tuple[Any, Any, Padding, bool]:
    """The arrays as conv2d takes them, its padding, and whether the two have changed places."""
    image, kernel = backend.dense(image, "image", 2), backend.dense(kernel, "kernel", 2)
    same_dtype(image, "image", kernel, "kernel")
    for array, name in ((image, "image"), (kernel, "kernel")):
        if min(array.shape) < 1:
            raise ValueError(f"{name}: every axis must have at least one element, got shape {array.shape}")
    if not isinstance(mode, str) or mode not in ("full", "same", "valid"):
        raise ValueError(f'mode: expected "full", "same" or "valid", got {mode!r}')
    swapped = False
    if mode == "valid":
        larger = [n >= k for n, k in zip(image.shape, kernel.shape)]
        if not all(larger):
            if any(n > k for n, k in zip(image.shape, kernel.shape)):
                raise ValueError(
                    f'kernel: in mode "valid" one of the two must be at least as large as the other along both axes, '
                    f"got {kernel.shape} for an image of {image.shape}"
                )
            image, kernel, swapped = kernel, image, True
    rows, columns = kernel.shape
    pads: dict[str, Padding] = {
        "full": ((rows - 1, rows - 1), (columns - 1, columns - 1)),
        "same": ((rows // 2, (rows - 1) // 2), (columns // 2, (columns - 1) // 2)),
        "valid": ((0, 0), (0, 0)),
    }
    return image[None, None], kernel[None, None, ::-1, ::-1], pads[mode], swapped


def convolve2d(image: Any, kernel: Any, mode: str = "full") -> Any:
    """Convolve two matrices: ``y[i, j] = sum image[i - r, j - s] kernel[r, s]``, as `scipy.signal.convolve2d`.

    Parameters
    ----------
    image, kernel : array, shapes (H, W) and (kh, kw)
        float32, float64, float16 or bfloat16, of the same dtype. Outside there are zeros.
    mode : {"full", "same", "valid"}
        All of the result, H + kh - 1 by W + kw - 1; its middle, of the image's shape; or only where neither reaches
        past the other, abs(H - kh) + 1 by abs(W - kw) + 1.

    Returns
    -------
    array

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or the mode is wrong: "valid" needs one of the two to be at least as large along both axes.

    See Also
    --------
    convolve2d_backward : its gradients.
    conv2d : cross-correlation, which does not turn the kernel round.

    References
    ----------
    Goodfellow, Bengio & Courville, "Deep Learning" (2016), section 9.1, eq. 9.5.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> fc.convolve2d(np.array([[1.0, 2, 3]]), np.array([[1.0, 10]]))
    array([[ 1., 12., 23., 30.]])
    """
    image, kernel, padding, _ = _prepare(backend_of(image, "convolve2d"), image, kernel, mode)
    return conv2d(image, kernel, padding=padding)[0, 0]


def convolve2d_backward(
    dy: Any, image: Any, kernel: Any, mode: str = "full", *, needs: tuple[bool, bool] = (True, True)
) -> tuple[Any, Any]:
    """Gradients of `convolve2d` with respect to image and kernel.

    Parameters
    ----------
    dy : array
        Gradient with respect to convolve2d's result, of its shape.
    image, kernel, mode
        What convolve2d was given.
    needs : (bool, bool)
        Which of the two gradients to compute.

    Returns
    -------
    dimage, dkernel : array or None
        Shaped as image and kernel; None where not needed.

    Raises
    ------
    TypeError
        If dtypes differ or are not float32, float64, float16 or bfloat16.
    ValueError
        If a shape or the mode is wrong.

    Examples
    --------
    >>> import numpy as np, fastconv as fc
    >>> image, kernel = np.array([[1.0, 2, 3]]), np.array([[1.0, 10]])
    >>> fc.convolve2d_backward(np.array([[1.0, 0, 0, 1]]), image, kernel)
    (array([[ 1.,  0., 10.]]), array([[1., 3.]]))
    """
    backend = backend_of(dy, "convolve2d_backward")
    needs_image, needs_kernel = check_needs(needs, ("dimage", "dkernel"))
    image, kernel, padding, swapped = _prepare(backend, image, kernel, mode)
    dy = backend.dense(dy, "dy", 2)
    wanted = (needs_kernel, needs_image, False) if swapped else (needs_image, needs_kernel, False)
    first, second, _ = conv2d_backward(dy[None, None], image, kernel, padding=padding, needs=wanted)
    first = None if first is None else first[0, 0]
    second = None if second is None else backend.dense(second[0, 0, ::-1, ::-1], "dkernel")
    return (second, first) if swapped else (first, second)
