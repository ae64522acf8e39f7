"""Mixed precision: products of 16 bits, parameters of float32, and the scaling of the loss that float16 needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastconv as fc
from fastconv import layers, optim
from fastconv.casting import cast, lowered
from fastconv.containers import Autocast, Concat, Residual, Sequential, WithHeads

HALF = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
STEP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # half a unit in the last place, relative
each_half = pytest.mark.parametrize("half", HALF)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def gradients(model: layers.Layer) -> dict[str, np.ndarray]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


PRODUCTS: dict[str, tuple[Callable[[], layers.Layer], tuple[int, ...]]] = {
    "Conv1d": (lambda: layers.Conv1d(2, 3, 3, rng=0), (2, 2, 9)),
    "Conv2d": (lambda: layers.Conv2d(2, 3, 3, padding=1, rng=0), (2, 2, 7, 6)),
    "Conv2d without bias": (lambda: layers.Conv2d(2, 4, 3, groups=2, bias=False, rng=0), (2, 2, 7, 6)),
    "Conv3d": (lambda: layers.Conv3d(2, 3, 2, rng=0), (1, 2, 4, 3, 5)),
    "ConvTranspose2d": (lambda: layers.ConvTranspose2d(2, 3, 3, 2, rng=0), (2, 2, 4, 5)),
    "LocalConv2d": (lambda: layers.LocalConv2d(2, 3, 6, 3, rng=0), (2, 2, 6, 6)),
    "SeparableConv2d": (lambda: layers.SeparableConv2d(2, 3, 3, rng=0), (2, 2, 6, 6)),
    "TableConv2d": (
        lambda: layers.TableConv2d(np.eye(3, 2, dtype=bool) | (np.arange(3) > 1)[:, None], 3, rng=0),
        (2, 2, 6, 6),
    ),
    "Linear": (lambda: layers.Linear(6, 4, rng=0), (5, 6)),
    "PReLU": (lambda: layers.PReLU(3), (2, 3, 4, 4)),
}


def as_stored(make: Callable[[], layers.Layer], dtype: np.dtype) -> layers.Layer:
    """The layer with parameters that are of 16 bits themselves, which computes as functions of such arrays do."""
    layer = make()
    for p in layer.parameters():
        p.value = p.value.astype(dtype)
    return layer


@each_half
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str, half: str) -> None:
    """Bit for bit what a layer of 16-bit parameters gives; but parameters and their gradients are of float32."""
    make, shape = PRODUCTS[name]
    x, layer, stored = random(*shape), make(), as_stored(make, HALF[half])
    mixed = Autocast(layer, half)
    y, backward = mixed.forward(x)
    expected, expected_backward = stored.forward(x.astype(HALF[half]))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected.astype(np.float32))
    np.testing.assert_array_equal(mixed(x), y)
    dy = random(*y.shape, seed=1)
    dx, expected_dx = backward(dy), expected_backward(dy.astype(HALF[half]))
    assert dx is not None
    assert dx.dtype == np.float32
    np.testing.assert_array_equal(dx, np.asarray(expected_dx).astype(np.float32))
    assert [p.value.dtype for p in layer.parameters()] == [np.float32] * len(layer.parameters())
    for path, grad in gradients(stored).items():
        got = gradients(layer)[path]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, grad.astype(np.float32))


@each_half
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm(half: str, relu: bool) -> None:
    """Of a batch of 16 bits, but with float32's weights and statistics; gradients of weights are not rounded."""
    dtype = HALF[half]
    x, dy = random(4, 3, 5, 5).astype(dtype), random(4, 3, 5, 5, seed=1).astype(dtype)
    weight, bias = random(3, seed=2), random(3, seed=3)
    mean, var = np.zeros((2, 3), np.float32)
    y, *statistics = fc.batch_norm(
        x, mean, var, weight, bias, training=True, relu=relu, return_statistics=True, layout="NCHW"
    )
    wide = fc.batch_norm(x.astype(np.float32), None, None, weight, bias, training=True, relu=relu)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, wide.astype(dtype))
    got = fc.batch_norm_backward(dy, x, *statistics, weight, bias, relu=relu)
    expected = fc.batch_norm_backward(dy.astype(np.float32), x.astype(np.float32), *statistics, weight, bias, relu=relu)
    assert [g.dtype for g in got] == [dtype, np.float32, np.float32]
    np.testing.assert_array_equal(got[0], expected[0].astype(dtype))
    np.testing.assert_array_equal(got[1], expected[1])
    np.testing.assert_array_equal(got[2], expected[2])
    with pytest.raises(TypeError, match="does not match"):
        fc.batch_norm(x, None, None, weight.astype(np.float64), bias, training=True)


@each_half
@pytest.mark.parametrize("name", ["RBF", "Softmax", "LogSoftmax"])
def test_results_that_stay_wide(name: str, half: str) -> None:
    head = {
        "RBF": lambda: layers.RBF(np.sign(random(3, 4))),
        "Softmax": layers.Softmax,
        "LogSoftmax": layers.LogSoftmax,
    }[name]()
    x = random(5, 4)
    y, backward = Autocast(head, half).forward(x)
    rounded = x.astype(HALF[half])
    np.testing.assert_array_equal(y, head(rounded.astype(np.float32)))
    dx = backward(np.ones_like(y))
    assert dx is not None
    assert dx.dtype == np.float32
    np.testing.assert_array_equal(dx, dx.astype(HALF[half]).astype(np.float32))


def small_network(**options: Any) -> Sequential:
    return Sequential(
        conv=layers.Conv2d(1, 4, 3, padding=1, rng=0, **options),
        bn=layers.BatchNorm2d(4, **options),
        relu=layers.ReLU(),
        block=Residual(Sequential(conv=layers.Conv2d(4, 4, 3, padding=1, rng=1, **options)), activation=layers.ReLU()),
        branches=Concat(layers.Conv2d(4, 2, 1, rng=2, **options), layers.Identity()),
        pool=layers.MaxPool2d(2),
        lrn=layers.LocalResponseNorm(3),
        squash=layers.ScaledTanh(),
        dropout=layers.Dropout(0.2, rng=3),
        flatten=layers.Flatten(),
        fc=layers.Linear(54, 5, rng=4, **options),
    )


@each_half
def test_gradients_of_a_network(half: str) -> None:
    """Within a few roundings of float32's, in norm; a dozen layers round a few times each."""
    x, target = random(16, 1, 6, 6), np.arange(16) % 5
    found = []
    for dtype in ("float32", half):
        model = small_network()
        scores, backward = Autocast(model, dtype).forward(x)
        loss, dscores = fc.cross_entropy(scores, target, return_grad=True)
        dx = backward(256 * dscores)
        assert dx is not None
        assert dx.dtype == scores.dtype == np.float32
        flat = np.concatenate([grad.ravel() for grad in gradients(model).values()])
        assert flat.dtype == np.float32
        found.append((loss, flat, dx))
    for one, other in zip(*found):
        error = np.linalg.norm(one - other) / np.linalg.norm(one)
        assert 0 < error < 32 * STEP[half]


def test_float32_changes_nothing() -> None:
    x = random(4, 1, 6, 6)
    plain, wrapped = small_network(), small_network()
    y, backward = plain.forward(x)
    got, got_backward = Autocast(wrapped, np.float32).forward(x)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(got_backward(y), backward(y))


def test_double_precision_stays() -> None:
    with np.errstate(all="raise"):
        assert fc.gradcheck(Autocast(layers.Conv2d(2, 3, 3, rng=0), "float16"), random(2, 2, 5, 5))


@each_half
def test_a_part_in_float32(half: str) -> None:
    """Within a network of 16 bits; what is between comes and goes in 16."""
    inner = layers.Linear(6, 6, rng=0)
    seen = []

    class Spy(layers.Layer):
        def __init__(self, layer: layers.Layer) -> None:
            self.layer = layer

        def forward(self, x: Any, *, training: bool = True) -> Any:
            y, step = self.layer.forward(x, training=training)

            def backward(dy: Any, needs_dx: bool = True) -> Any:
                dx = step(dy, needs_dx=needs_dx)
                seen.extend([dy.dtype, dx.dtype])
                return dx

            seen.extend([x.dtype, y.dtype])
            return y, backward

    model = Sequential(layers.Linear(6, 6, rng=1), Spy(Autocast(Spy(inner), "float32")), layers.Linear(6, 3, rng=2))
    y, backward = Autocast(model, half).forward(random(4, 6))
    backward(y)
    narrow, wide = HALF[half], np.dtype(np.float32)
    assert seen == [wide, wide, narrow, narrow, wide, wide, narrow, narrow]


def test_parts_where_dtypes_meet() -> None:
    """A layer of one's own computes in float32, and the layers around it go on in 16 bits."""

    class Shift(layers.Layer):
        def __init__(self) -> None:
            self.by = layers.Parameter("by", np.full(1, 0.25, np.float32))

        def forward(self, x: Any, *, training: bool = True) -> Any:
            def backward(dy: Any, needs_dx: bool = True) -> Any:
                self.by.add_grad(dy.sum(dtype=np.float32, keepdims=True).reshape(1))
                return dy.astype(x.dtype)

            return x + self.by.value, backward

    model = Sequential(layers.Linear(6, 6, rng=1), Shift(), layers.Linear(6, 3, rng=2))
    y, backward = Autocast(model, "float16").forward(random(4, 6))
    assert backward(y) is not None
    assert gradients(model)["1.by"].dtype == np.float32


def test_heads() -> None:
    model = WithHeads(
        {"a": layers.Linear(4, 4, rng=0), "b": layers.Linear(4, 2, rng=1)}, {"aux": ("a", layers.Linear(4, 2))}
    )
    scores, backward = Autocast(model).forward(random(3, 4))
    _, dscores = fc.auxiliary_loss(scores, np.array([0, 1, 0]), return_grad=True)
    assert {part.dtype for part in scores} == {np.dtype(np.float32)}
    assert len(fc.optim.GradScaler().scale(dscores)) == 2
    backward(dscores, needs_dx=False)
    assert len(gradients(model)) == 6
    assert Autocast(model)(random(3, 4)).shape == (3, 2)


def test_other_threads_are_not_concerned() -> None:
    found = []

    class Look(layers.Identity):
        def forward(self, x: Any, *, training: bool = True) -> Any:
            thread = threading.Thread(target=lambda: found.append(lowered(np.ones(1, np.float32))[0].dtype))
            thread.start()
            thread.join()
            found.append(lowered(np.ones(1, np.float32))[0].dtype)
            return super().forward(x, training=training)

    Autocast(Look()).forward(np.ones(1, np.float32))
    assert found == [np.float32, np.float16]
    assert lowered(np.ones(1, np.float32))[0].dtype == np.float32


def test_names_and_printing() -> None:
    model = small_network()
    mixed = Autocast(model, "bfloat16")
    assert list(mixed.state_dict()) == list(model.state_dict())
    assert repr(Autocast(layers.ReLU())) == "Autocast('float16',\n  ReLU()\n)"
    for wrong in ("float64", "int8", "half precision", None, 3):
        with pytest.raises(ValueError, match='dtype: expected "float16", "bfloat16" or "float32"'):
            Autocast(model, wrong)  # type: ignore[arg-type]


@each_half
def test_cast(half: str) -> None:
    x = random(4, 6)
    x[0, 0], x[1, 1] = 1e30, np.nan
    for array in (x, x[::-1, ::2], x.astype(">f4"), x.astype(np.float64)):
        with np.errstate(over="ignore"):
            expected = array.astype(np.float32).astype(HALF[half])
            got = cast(array, HALF[half])
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))
    narrow = cast(x, HALF[half])
    assert cast(narrow, HALF[half]) is narrow
    np.testing.assert_array_equal(cast(narrow[:, ::2], np.dtype(np.float32)), narrow[:, ::2].astype(np.float32))
    np.testing.assert_array_equal(cast(narrow, np.dtype(np.float64)), narrow.astype(np.float64))


# ---- loss scaling ----------------------------------------------------------------------------------------------------


def test_scaling_keeps_small_gradients() -> None:
    x, dy = np.full((1, 2), 2.0**-12, np.float32), np.full((1, 1), 2.0**-14, np.float32)
    layer = layers.Linear(2, 1, bias=False)
    optimizer, scaler = optim.SGD(layer.parameters(), 1.0), optim.GradScaler()
    for scale in (False, True):
        optimizer.zero_grad()
        Autocast(layer).forward(x)[1](scaler.scale(dy) if scale else dy)
        if scale:
            scaler.unscale_(optimizer)
        np.testing.assert_array_equal(layer.weight.grad, np.full((1, 2), 2.0**-26 if scale else 0, np.float32))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, *HALF.values()])
def test_a_step_is_left_out(dtype: Any, bad: float) -> None:
    values = [np.ones(70_000, dtype), np.ones(3, dtype)]
    parameters = [layers.Parameter(f"p{i}", value) for i, value in enumerate(values)]
    parameters.append(layers.Parameter("unused", np.ones(2, dtype)))
    optimizer = optim.SGD(parameters, 0.5, momentum=0.9)
    scaler = optim.GradScaler(8.0, growth_interval=2)
    seen = []
    for last in (4.0, bad, 4.0, 4.0, 4.0, bad):
        optimizer.zero_grad()
        parameters[0].grad, parameters[1].grad = np.full(70_000, 4.0, dtype), np.full(3, 4.0, dtype)
        parameters[0].grad[-1] = last
        before, state = parameters[0].value.copy(), optimizer.state_dict()["arrays"]
        taken = scaler.step(optimizer)
        assert taken == bool(np.isfinite(last))
        assert (parameters[0].value == before).all() != taken
        if not taken:
            for name, array in optimizer.state_dict()["arrays"].items():
                np.testing.assert_array_equal(array, state[name])
        scaler.update()
        seen.append(scaler.get_scale())
    assert seen == [8, 4, 4, 8, 8, 4]


def test_gradients_are_divided_once() -> None:
    p = layers.Parameter("p", np.zeros((2, 2), np.float32))
    optimizer, scaler = optim.SGD([p], 1.0), optim.GradScaler(4.0)
    p.grad = np.full((2, 2), 8.0, np.float32).T[::-1]  # not dense
    scaler.unscale_(optimizer)
    assert p.grad.tolist() == [[2, 2], [2, 2]]
    assert optim.clip_grad_norm([p], 2.0) == 4
    with pytest.raises(ValueError, match="unscaled already"):
        scaler.unscale_(optimizer)
    assert scaler.step(optimizer)
    np.testing.assert_allclose(p.value, -1, rtol=1e-6)
    with pytest.raises(ValueError, match="step already"):
        scaler.step(optimizer)
    scaler.update()
    with pytest.raises(ValueError, match="no gradients were unscaled"):
        scaler.update()
    scaler.update(512)
    assert scaler.get_scale() == 512


def test_the_scale_has_bounds() -> None:
    p = layers.Parameter("p", np.zeros(1, np.float32))
    optimizer = optim.SGD([p], 1.0)
    for grad, start in ((np.nan, 2.0**-59), (1.0, 2.0**59)):
        scaler = optim.GradScaler(start, growth_interval=1)
        for _ in range(4):
            p.grad = np.full(1, grad, np.float32)
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() in (2.0**-60, 2.0**60)


def test_two_optimizers() -> None:
    """One scale for both; each leaves out its own steps, and the scale falls if either did."""
    a, b = layers.Parameter("a", np.zeros(1, np.float32)), layers.Parameter("b", np.zeros(1, np.float32))
    a.grad, b.grad = np.full(1, np.inf, np.float32), np.ones(1, np.float32)
    one, other, scaler = optim.SGD([a], 1.0), optim.SGD([b], 1.0), optim.GradScaler(2.0)
    assert (scaler.step(one), scaler.step(other)) == (False, True)
    scaler.update()
    assert (scaler.get_scale(), float(a.value[0]), float(b.value[0])) == (1, 0, -0.5)


def test_what_is_scaled() -> None:
    scaler = optim.GradScaler(2.0**16)
    for dtype in (np.float16, HALF["bfloat16"], np.float32):
        scaled = scaler.scale(np.full(2, 2, dtype))
        assert scaled.dtype == np.float32
        assert scaled.tolist() == [2**17, 2**17]
    assert scaler.scale(np.ones(2)).dtype == np.float64
    off = optim.GradScaler(enabled=False)
    given, p = np.ones(2), layers.Parameter("p", np.zeros(1))
    p.grad = np.full(1, np.inf)
    optimizer = optim.SGD([p], 1.0)
    assert off.scale(given) is given
    off.unscale_(optimizer)
    assert off.step(optimizer)
    off.update()
    assert off.get_scale() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_scale": 0}, "init_scale: expected a number from"),
        ({"init_scale": np.nan}, "init_scale: expected a number from"),
        ({"growth_factor": 1}, "growth_factor: expected a finite number above 1, got 1"),
        ({"backoff_factor": 1.0}, "backoff_factor: expected a number between 0 and 1, got 1.0"),
        ({"growth_interval": 0}, "growth_interval: expected at least 1, got 0"),
    ],
)
def test_options_of_the_scaler(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optim.GradScaler(**options)


def test_state_of_the_scaler() -> None:
    p = layers.Parameter("p", np.zeros(1, np.float32))
    optimizer, scaler = optim.SGD([p], 1.0), optim.GradScaler(16.0, growth_interval=3)
    for grad in (np.inf, 1, 1):
        p.grad = np.full(1, grad, np.float32)
        scaler.step(optimizer)
        scaler.update()
    other = optim.GradScaler(growth_interval=3)
    other.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert other.state_dict() == scaler.state_dict()
    assert (other.get_scale(), other.state_dict()["growth_tracker"]) == (8, 2)
    with pytest.raises(ValueError, match="growth_interval: is 5 here, and 3 in the state"):
        optim.GradScaler(growth_interval=5).load_state_dict(scaler.state_dict())
    with pytest.raises(ValueError, match="state: has"):
        other.load_state_dict({"scale": 1.0})


# ---- training --------------------------------------------------------------------------------------------------------


@each_half
def test_lenet_learns(half: str) -> None:
    pytest.importorskip("sklearn")
    digits = fc.data.digits()
    model = fc.models.lenet5(variant="modern", rng=0)
    history = fc.fit(
        model,
        digits.x_train[:600],
        digits.y_train[:600],
        validation=(digits.x_test[:200], digits.y_test[:200]),
        epochs=6,
        batch_size=32,
        autocast=half,
        rng=0,
        progress=False,
    )
    accuracy = history[-1].val_accuracy
    assert accuracy is not None
    assert accuracy > 0.9
    assert {p.value.dtype for p in model.parameters()} == {np.dtype(np.float32)}


def trained(path: Path | None, epochs: int, **options: Any) -> tuple[dict[str, np.ndarray], optim.GradScaler]:
    x, y = random(40, 1, 6, 6), np.arange(40) % 5
    model = small_network()
    scaler = options.setdefault("scaler", optim.GradScaler(2.0**30, growth_interval=5))
    optimizer = optim.Adam(model.parameters(), 0.01)
    more: dict[str, Any] = {"schedule": None, "rng": 0, "progress": False, "epochs": epochs, "batch_size": 16}
    options = {"autocast": "float16", **options}
    fc.fit(model, x, y, optimizer=optimizer, checkpoint=path, **more, **options)
    return model.state_dict(), scaler


@pytest.mark.parametrize("end", ["npz", "safetensors"])
def test_what_was_interrupted_goes_on(end: str, tmp_path: Path) -> None:
    """Bit for bit, the scale included: the first steps overflow, and later ones raise it."""
    if end == "safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"checkpoint.{end}"
    whole, scaler = trained(None, 6)
    trained(path, 3)
    resumed, other = trained(path, 6, resume=True)
    assert other.state_dict() == scaler.state_dict()
    assert scaler.get_scale() < 2.0**30
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)


def test_a_checkpoint_of_another_precision(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    trained(path, 1)
    with pytest.raises(ValueError, match="scaler: the checkpoint has one"):
        trained(path, 2, resume=True, autocast=None, scaler=None)
    with pytest.raises(ValueError, match="autocast: was float16, is bfloat16 now"):
        trained(path, 2, resume=True, autocast="bfloat16")
    scaler = optim.GradScaler(growth_interval=9)
    with pytest.raises(ValueError, match="growth_interval: is 9 here"):
        trained(path, 2, resume=True, scaler=scaler)
    assert scaler.get_scale() == 2.0**16


def test_clipping_sees_the_gradients_as_they_are() -> None:
    """Not as they are scaled: a bound that none reaches changes nothing."""
    one, _ = trained(None, 2, scaler=optim.GradScaler(2.0**8))
    other, _ = trained(None, 2, scaler=optim.GradScaler(2.0**8), max_norm=1e3)
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="dtype: expected"):
        fc.fit(layers.Linear(2, 2), random(4, 2), np.zeros(4, int), autocast="float8", progress=False)


def test_summary() -> None:
    """The same network, whose activations take half the memory, beside a copy of what goes in and out."""
    model = fc.models.get_model("lenet5", variant="modern")
    plain, mixed = fc.summary(model, (1, 32, 32), 8), fc.summary(Autocast(model), (1, 32, 32), 8)
    assert mixed.multiply_adds == plain.multiply_adds
    assert mixed.parameters == plain.parameters
    assert [row.output_shape for row in mixed.rows[:-1]] == [row.output_shape for row in plain.rows]
    image, scores = 8 * 32 * 32, 8 * 10
    inner = (plain.training_bytes - 4 * image) // 2
    assert mixed.training_bytes == 4 * image + 2 * image + inner + 4 * scores
    assert mixed.inference_bytes < plain.inference_bytes
    again = Autocast(fc.models.get_model("lenet5", variant="modern", dtype="float64"))
    assert fc.summary(again, (1, 32, 32)).training_bytes == 2 * fc.summary(model, (1, 32, 32)).training_bytes
