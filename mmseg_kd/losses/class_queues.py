"""Features of each class, kept over iterations."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

from mmseg_kd.losses.functional import unit_length


class ClassQueues(nn.Module):
    """A queue of vectors for each class, in which new ones take the place of the oldest.

    The queues and their pointers are buffers: saved with a run, and the same on every rank, as
    each files what all ranks have. They begin with random vectors of length 1.

    Args:
        num_classes: K, the number of classes.
        entries: E, the length of a queue.
        channels: C, those of a vector.
    """

    queue: Tensor
    pointer: Tensor

    def __init__(self, num_classes: int, entries: int, channels: int) -> None:
        super().__init__()
        queue_KEC = unit_length(torch.randn(num_classes, entries, channels), dim=2)
        self.register_buffer('queue', queue_KEC)
        self.register_buffer('pointer', torch.zeros(num_classes, dtype=torch.long))

    def draw(self, count: int) -> Tensor:
        """About `count` entries (A, C): as many and at the same places of each class.

        Args:
            count: Rounded up to a multiple of the classes; at most all there are.
        """
        classes, entries, _ = self.queue.shape
        each = -(-count // classes)
        if each >= entries:
            return self.queue.flatten(0, 1).clone()
        place = torch.randperm(entries)[:each].to(self.queue.device)
        return self.queue[:, place].flatten(0, 1)

    @torch.no_grad()
    def file(self, rows_RC: Tensor, blocks_B2: Tensor) -> None:
        """Put the rows of all ranks into the queues; a block that meets the end goes before it.

        Args:
            rows_RC: Vectors, block after block.
            blocks_B2: Of each block its class and its number of rows, at most the queue's length.
        """
        rows_RC, blocks_B2 = gather_rows(rows_RC.to(self.queue.dtype)), gather_rows(blocks_B2)
        _, entries, channels = self.queue.shape
        pointer = self.pointer.tolist()
        source = {}  # of each place the row that comes last
        row = 0
        for k, count in blocks_B2.tolist():
            begin = pointer[k] if pointer[k] + count < entries else entries - count
            pointer[k] = (begin + count) % entries
            for i in range(count):
                source[k * entries + begin + i] = row + i
            row += count
        place, chosen = (
            torch.tensor(list(x), dtype=torch.long, device=rows_RC.device)
            for x in (source, source.values())
        )
        self.queue.view(-1, channels)[place] = rows_RC[chosen]
        self.pointer.copy_(torch.tensor(pointer))


def gather_rows(x_RD: Tensor) -> Tensor:
    """The rows of all ranks, rank after rank, however many each has."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return x_RD
    ranks = distributed.get_world_size()
    count = torch.tensor([len(x_RD)], device=x_RD.device)
    counts = [torch.empty_like(count) for _ in range(ranks)]
    distributed.all_gather(counts, count)
    longest = max(int(one) for one in counts)
    padded = x_RD.new_zeros(longest, *x_RD.shape[1:])
    padded[: len(x_RD)] = x_RD
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(one)] for part, one in zip(parts, counts, strict=True)])
