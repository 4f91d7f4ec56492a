"""IFVD by segment sums against the published loop over classes, forward and backward.

    python benchmarks/ifvd.py [--classes 150] [--size 128]

Both run on the same maps in turns; the loop needs a minute or two a round on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_kd.losses.functional import class_similarity


def looped_similarity(x_NChw: Tensor, label_Nhw: Tensor, num_classes: int) -> Tensor:
    """The similarity with one pass over the whole map for each class."""
    centre_NChw = x_NChw.clone()
    for k in range(num_classes):
        mask_N1hw = (label_Nhw == k)[:, None].to(x_NChw.dtype)
        mean_NC11 = (mask_N1hw * x_NChw).sum((2, 3)) / (mask_N1hw.sum((2, 3)) + 1e-6)
        centre_NChw = (1 - mask_N1hw) * centre_NChw + mask_N1hw * mean_NC11[:, :, None, None]
    return F.cosine_similarity(x_NChw, centre_NChw, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--classes', type=int, default=150)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    shape = (args.batch, args.classes, args.size, args.size)
    maps = [torch.randn(shape, device=device) for _ in range(2)]
    coarse_N1hw = torch.randint(args.classes, (args.batch, 1, 16, 16)).double()
    label_Nhw = F.interpolate(coarse_N1hw, size=shape[2:])[:, 0].long().to(device)
    ways: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
        'segments': class_similarity,
        'loop': looped_similarity,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    gradients = {}
    for _ in range(args.rounds):
        for name, similarity in ways.items():
            student = maps[0].clone().requires_grad_()
            begun = time.perf_counter()
            with torch.no_grad():
                theirs = similarity(maps[1], label_Nhw, args.classes)
            F.mse_loss(similarity(student, label_Nhw, args.classes), theirs).backward()
            if device == 'cuda':
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - begun)
            gradients[name] = student.grad
    torch.testing.assert_close(gradients['segments'], gradients['loop'], rtol=1e-3, atol=1e-9)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f'{"x".join(map(str, shape))}, {args.classes} classes, {device}, {args.rounds} rounds')
    for name, seconds in medians.items():
        print(f'{name:<8} {seconds * 1000:9.1f} ms')
    print(f'loop / segments: {medians["loop"] / medians["segments"]:.1f}')


if __name__ == '__main__':
    main()
