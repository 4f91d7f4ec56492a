"""Work on a CUDA stream of its own, beside that of the current one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SideStream:
    """A stream that forks from the current one and joins it again.

    Away from CUDA both do nothing.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    @contextmanager
    def fork(self, read: Tensor) -> Iterator[None]:
        """Inside, work goes onto the side stream, after all that the current one has to do.

        Args:
            read: A tensor of the current stream that this work reads.
        """
        if not read.is_cuda:
            yield
            return
        if read.device not in self._streams:
            self._streams[read.device] = torch.cuda.Stream(read.device)
        stream = self._streams[read.device]
        stream.wait_stream(torch.cuda.current_stream(read.device))
        with torch.cuda.stream(stream):
            yield
        # Its memory is given to nobody else before the side stream has read it.
        read.record_stream(stream)

    def join(self, made: Iterable[Tensor]) -> None:
        """The current stream goes on when the side stream is done.

        Args:
            made: Tensors of the side stream that the current one reads from here on.
        """
        for device, stream in self._streams.items():
            torch.cuda.current_stream(device).wait_stream(stream)
        for tensor in made:
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
