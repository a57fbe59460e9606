"""Train the small BatchNorm ResNet of the demo on MNIST and export it with its BatchNorm layers.

Run it from the root of the repository: `python -m examples.digits.train`. It takes about a minute
on one core, and writes `examples/digits/mnist_resnet.onnx`. One thread, one seed and deterministic
kernels: on the same machine and library versions the weights are bit-identical.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from bn_ops.exporting import export
from examples.digits.data import LabeledImages, load_mnist, load_sklearn_digits, split

MODEL_PATH = Path(__file__).with_name("mnist_resnet.onnx")
TRAINING_DIGITS = 4_500  # of 5,000; the other 500 measure the source error
EPOCHS = 6
BATCH_SIZE = 100
LEARNING_RATE = 0.01


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class MnistResNet(nn.Module):
    """Stem, three residual blocks, mean over positions, one linear layer: 9 BatchNorm layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.block1 = ResidualBlock(width, width, 1)
        self.block2 = ResidualBlock(width, 2 * width, 2)
        self.block3 = ResidualBlock(2 * width, 4 * width, 2)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map (n, 1, 28, 28) in [0, 1] to logits (n, 10)."""
        x = functional.relu(self.bn(self.conv(image)))
        x = self.block3(self.block2(self.block1(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def train(data: LabeledImages, *, seed: int, epochs: int = EPOCHS) -> MnistResNet:
    """Train from scratch with AdamW and a one-cycle learning rate; return in eval mode."""
    torch.manual_seed(seed)
    network = MnistResNet()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = len(labels) // BATCH_SIZE
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * steps
    )
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for step in range(steps):
            index = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
            loss = functional.cross_entropy(network(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.inference_mode()
def error_percent(network: nn.Module, data: LabeledImages) -> float:
    """Return the classification error in percent."""
    predicted = network(torch.from_numpy(data.images)).argmax(1).numpy()
    return float(100 * np.mean(predicted != data.labels))


def main() -> None:
    """Train and export the network; print the errors and the digest of the file."""
    parser = argparse.ArgumentParser(description="Train and export the demo's network.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MODEL_PATH)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the order of float32 sums depends on the number of threads
    torch.use_deterministic_algorithms(mode=True)

    training, held_out = split(load_mnist(), TRAINING_DIGITS)
    began = time.perf_counter()
    network = train(training, seed=options.seed)
    print(f"trained in {time.perf_counter() - began:.0f} s (seed {options.seed})")
    print(f"error on 500 held-out MNIST digits  {error_percent(network, held_out):5.1f} %")
    foreign = error_percent(network, load_sklearn_digits())
    print(f"error on 1,797 scikit-learn digits  {foreign:5.1f} %")

    onnx.save(export(network, torch.zeros(2, 1, 28, 28)), options.output)
    content = options.output.read_bytes()
    print(f"{options.output}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
