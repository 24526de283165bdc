"""Several processes that train one model together, by torch's own DistributedDataParallel; or one alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ditta_core.types import AdaptationFailed


class ProcessLost(AdaptationFailed):
    """Another process of the group is gone."""


@contextlib.contextmanager
def joined_group(batch: int) -> Iterator[Processes]:
    """The processes that ``torchrun`` started together, as a group that ends with the block; one alone otherwise.

    Args:
        batch: Number of windows of a step, over all processes.

    Raises:
        ProcessLost: another process ended, or cannot be reached any more.
    """
    begins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized()
    if begins:
        # Both, as clocks and signals are agreed on by tensors of the CPU.
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes.of_group(batch)
    except RuntimeError as error:
        if not (begins and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error))):
            raise
        raise ProcessLost(
            "expected all processes that train together to stay, but lost one, which tells why above; the same command "
            "goes on with what was kept"
        ) from error
    finally:
        if begins:
            torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Processes:
    """The processes of the default group of torch.distributed, as ``torchrun`` starts them; one where there is none.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        batch: Number of windows of a step, over all of them.
    """

    rank: int
    size: int
    batch: int

    @classmethod
    def of_group(cls, batch: int) -> Processes:
        """The processes of the group.

        Raises:
            ValueError: the batch is no multiple of their number.
        """
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else (0, 1)
        if batch % size:
            raise ValueError(f"expected a batch in multiples of {size} processes, but got {batch}; give --batch {size}")
        return cls(rank, size, batch)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @property
    def places(self) -> range:
        """Places in the batch of this process's windows."""
        return range(self.rank, self.batch, self.size)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose gradients are the mean over all processes."""
        if self.size == 1:
            return module
        # A loss may leave parameters of the model or a head alone.
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)

    def last(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Where gradients are only added up, rather than exchanged, before the last window of a step."""
        if isinstance(module, DistributedDataParallel) and not last:
            return module.no_sync()
        return contextlib.nullcontext()

    def agreed(self, value: float) -> float:
        """The first process's value, so that clocks and signals of the others do not count."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        torch.distributed.broadcast(shared, 0)
        return float(shared[0])

    def expect_same(self, file: Path) -> bool:
        """Whether a file is there, which all processes must see alike, on whatever machines they are.

        Raises:
            ValueError: this process sees it otherwise than the first.
        """
        there = file.exists()
        if self.agreed(float(there)) != there:
            raise ValueError(
                f"expected {file} on every machine as on that of the first process, but it is "
                f"{'here alone' if there else 'not here'}; put it into a folder that all machines share"
            )
        return there

    def mean(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Means of named scalars over the processes."""
        values = torch.stack([value.double().cpu() for value in terms.values()])
        if self.size > 1:
            torch.distributed.all_reduce(values)
            values /= self.size
        return dict(zip(terms, values.tolist(), strict=True))
