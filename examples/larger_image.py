"""A network scores a larger image: one pass of it as convolutions, beside the dense network on each crop.

    python examples/larger_image.py                                        VGG-16, 224 -> 384: 6 x 6 scores, 36 crops
    python examples/larger_image.py --model lenet5 --small 32 --large 48

What crops share the one pass computes only once (Sermanet et al., "OverFeat", 2014, section 3.5).
"""

import argparse
import time

import numpy as np

import fastconv as fc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="vgg16", help="a name in fastconv.models (default: %(default)s)")
parser.add_argument("--small", type=int, default=224, help="side of a crop (default: %(default)s)")
parser.add_argument("--large", type=int, default=384, help="side of the image (default: %(default)s)")
parser.add_argument("--batch", type=int, default=6, help="crops of a batch (default: %(default)s)")
parser.add_argument("--rounds", type=int, default=2, help="of which the fastest counts (default: %(default)s)")
args = parser.parse_args()

dense = getattr(fc.models, args.model)(rng=0)
channels = next(value.shape[1] for value in (p.value for p in dense.parameters()) if value.ndim == 4)
maps = fc.as_convolution(dense, (channels, args.small, args.small))
image = np.random.default_rng(0).standard_normal((1, channels, args.large, args.large), np.float32)

scores = maps(image)  # (1, classes, rows, columns)
rows, columns = scores.shape[2:]
step = (args.large - args.small) // max(1, rows - 1)
places = [(i * step, j * step) for i in range(rows) for j in range(columns)]
crops = np.concatenate([image[:, :, i : i + args.small, j : j + args.small] for i, j in places])

one, each = [], []
for _ in range(args.rounds):
    start = time.perf_counter()
    scores = maps(image)
    one.append(time.perf_counter() - start)
    start = time.perf_counter()
    expected = np.concatenate([dense(crops[i : i + args.batch]) for i in range(0, len(crops), args.batch)])
    each.append(time.perf_counter() - start)

found = scores[0].reshape(scores.shape[1], -1).T
apart = abs(found - expected).max() / abs(expected).max()
print(f"{args.model}, {args.small} -> {args.large}, {fc.get_num_threads()} threads: {rows} x {columns} scores")
print(f"one pass {min(one):.3f} s, {len(places)} crops {min(each):.3f} s: {min(each) / min(one):.1f} times as fast")
print(f"scores differ by at most {apart:.1e} of the largest (not by rounding alone where the network pads)")
