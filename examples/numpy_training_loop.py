"""A convolutional network learns handwritten digits: functions and plain NumPy arrays, nothing else."""

import numpy as np

import fastconv as fc

digits, rng = fc.data.digits(), np.random.default_rng(0)

shapes = (6, 1, 5, 5), (16, 6, 5, 5), (10, 400)
w1, w2, w3 = weights = [rng.standard_normal(shape, np.float32) * 0.1 for shape in shapes]
for epoch in range(8):
    for batch in np.array_split(rng.permutation(len(digits.x_train)), 45):
        x = digits.x_train[batch]
        a1 = fc.relu(fc.conv2d(x, w1))
        p1, switches1 = fc.max_pool2d(a1, 2, return_switches=True)
        a2 = fc.relu(fc.conv2d(p1, w2))
        p2, switches2 = fc.max_pool2d(a2, 2, return_switches=True)
        flat = p2.reshape(len(x), 400)
        loss, dscores = fc.cross_entropy(fc.linear(flat, w3), digits.y_train[batch], return_grad=True)
        dflat, dw3, _ = fc.linear_backward(dscores, flat, w3)
        da2 = fc.relu_backward(fc.max_pool2d_backward(dflat.reshape(p2.shape), switches2, a2.shape), a2)
        dp1, dw2, _ = fc.conv2d_backward(da2, p1, w2)
        da1 = fc.relu_backward(fc.max_pool2d_backward(dp1, switches1, a1.shape), a1)
        _, dw1, _ = fc.conv2d_backward(da1, x, w1, needs=(False, True, False))
        for w, dw in zip(weights, (dw1, dw2, dw3), strict=True):
            w -= 0.05 * dw
    p1 = fc.max_pool2d(fc.relu(fc.conv2d(digits.x_test, w1)), 2)
    p2 = fc.max_pool2d(fc.relu(fc.conv2d(p1, w2)), 2)
    right = fc.linear(p2.reshape(-1, 400), w3).argmax(1) == digits.y_test
    print(f"epoch {epoch + 1}: loss {loss:.4f}, {right.mean():.2%} of the held-out digits right")
