"""Whether ``torch.compile`` makes a training step quicker: eager and compiled steps of the same nets by turns.

    python -m benchmarks.compiled [--steps 40] [--threads 2]

Needs a C++ compiler. Nets and batches are those of the training table; a step is forward, backward and Adam, channels last.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.record import record
from carbide.models.nets import small_cnn

BATCH = 128
NETS = {"small CNN, width 16, 28x28": ((1, 28, 28), 16), "small CNN, width 64, 28x28": ((1, 28, 28), 64), "small CNN, width 32, 8x8": ((1, 8, 8), 32)}


def stepper(net: Any, shape: tuple[int, int, int]) -> Any:
    """A function that takes one training step and returns its seconds."""
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    x, y = torch.rand(BATCH, *shape).contiguous(memory_format=torch.channels_last), torch.randint(0, 10, (BATCH,))

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    table: list[dict[str, Any]] = []
    for name, (shape, width) in NETS.items():
        eager = stepper(small_cnn(shape=shape, classes=10, width=width).to(memory_format=torch.channels_last), shape)  # type: ignore[call-overload]
        compiled = stepper(torch.compile(small_cnn(shape=shape, classes=10, width=width).to(memory_format=torch.channels_last)), shape)  # type: ignore[call-overload]
        first = compiled()
        pairs = [(eager(), compiled()) for _ in range(given.steps)][given.steps // 4 :]
        a, b = (median(column) for column in zip(*pairs, strict=True))
        table.append(
            {"net": name, "eager, ms": 1000 * a, "compiled, ms": 1000 * b, "quicker by": f"{a / b:.2f}x", "first step of the compiled net, s": first}
        )
        print(table[-1], flush=True)
    record("Training: compiled steps", table, protocol=(
        f"Median of {given.steps - given.steps // 4} steps by turns after {given.steps // 4} that are not counted, batch {BATCH}, {given.threads} threads."),
        notes=("Recipes train without torch.compile: it has to win back its first step before it pays.",))  # fmt: skip


if __name__ == "__main__":
    main()
