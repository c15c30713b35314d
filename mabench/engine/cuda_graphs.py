"""CUDA graphs: a training step recorded once and then replayed, so that a processor need not launch its hundreds of small
kernels each time; on 32 x 32 images launching takes longer than computing."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

WARM = 3  # ours: plain steps before a recording, after which optimizer state, compiled programs and library handles are there
REPLAYED = ", steps replayed"  # in records, after the arithmetic, and not part of it: the same kernels compute the same numbers


class GraphedStep:
    """A method `step(batch)`, recorded once for each length of `batch`; its object is not kept alive.

    What changes from call to call is `batch`, indices [B], and what is drawn from `generator`. All else that the step reads or
    writes has to stay where it is in the device's memory: weights, momenta, images. Numbers such as a learning rate become part
    of the recording, so that a new optimizer wants a new GraphedStep. A step that cannot be recorded, for it waits for the
    device, stays as it was, with a warning.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        self.method, self.generator = weakref.WeakMethod(step), generator
        self.usable = True
        self.plain: Counter[int] = Counter()  # steps of each length before it was recorded
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self.aside = torch.cuda.Stream(generator.device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, batch: Tensor) -> Tensor:
        """What `step` returns, in memory that the next call overwrites."""
        with torch.cuda.device(self.generator.device):
            return self._run(batch)

    def _run(self, batch: Tensor) -> Tensor:
        size = len(batch)
        if self.usable and size not in self.recorded and self.plain[size] >= WARM:
            self._record(batch)
        if size not in self.recorded:
            self.plain[size] += 1
            return self._aside(batch)
        graph, indices, result = self.recorded[size]
        indices.copy_(batch)
        graph.replay()
        return result

    def _step(self, batch: Tensor) -> Tensor:
        step = self.method()
        assert step is not None
        return step(batch)

    def _aside(self, batch: Tensor) -> Tensor:
        """A plain step on the stream that will be recorded: gradients remember the stream on which they were first summed."""
        self.aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.aside):
            result = self._step(batch)
        torch.cuda.current_stream().wait_stream(self.aside)
        return result

    def _record(self, batch: Tensor) -> None:
        graph, indices, state = torch.cuda.CUDAGraph(), batch.clone(), self.generator.get_state()
        try:
            graph.register_generator_state(self.generator)  # replays then go on drawing where the last one stopped
            with torch.cuda.graph(graph, pool=self.pool, stream=self.aside):
                result = self._step(indices)
        except Exception as error:
            self.usable = False
            self.generator.set_state(state)
            warnings.warn(f"this training step is not recorded as a CUDA graph: {str(error).splitlines()[0]}", stacklevel=5)
            return
        self.recorded[len(batch)] = graph, indices, result
