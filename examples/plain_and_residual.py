"""Depth hurts a plain network, and a residual one it does not: 20 and 56 layers learn handwritten digits.

After figure 6 of He et al. 2016, "Deep residual learning for image recognition": the same layers with and without short
cuts, trained alike. Writes a picture; takes about two minutes.

    python examples/plain_and_residual.py [--epochs N] [--out PICTURE]
"""

import argparse

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

import fastconv as fc
from fastconv.models.resnet import cifar_resnet

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--out", default="residual.png")
options = parser.parse_args()

digits = fc.data.digits()
x, x_held_out = (fc.avg_pool2d(images, 4) for images in (digits.x_train, digits.x_test))  # 8x8 pixels

figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for panel, residual in zip(panels, (False, True), strict=True):
    name = "residual" if residual else "plain"
    for depth, colour in ((20, "#8fa3b8"), (56, "#1f5fa8")):
        model = cifar_resnet(depth, in_channels=1, residual=residual, rng=0)
        history = fc.fit(
            model,
            x,
            digits.y_train,
            validation=(x_held_out, digits.y_test),
            epochs=options.epochs,
            batch_size=16,
            warmup=1,
            rng=0,
            progress=False,
        )
        print(f"{name}, {depth} layers: {history[-1].val_accuracy:.2%} of the held-out digits right", flush=True)
        epochs = [epoch.epoch for epoch in history]
        panel.plot(epochs, [1 - epoch.val_accuracy for epoch in history], color=colour, label=f"{depth} layers")
        panel.plot(epochs, [1 - epoch.accuracy for epoch in history], color=colour, linestyle=":")
    panel.set_title(name, loc="left", fontweight="bold")
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(axis="y", color="#e4e8ec")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
panels[0].set_ylabel("digits wrong (dotted: training)")
panels[0].yaxis.set_major_formatter(PercentFormatter(1))
panels[0].set_ylim(0, 1)
figure.savefig(options.out, dpi=130)
