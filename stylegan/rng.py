"""Random numbers of a training step: always those of the whole batch, of which each process sees its own rows.

All processes draw the same numbers from the same generator and keep their own rows, so that the picture of slice i does not depend
on which process computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stylegan import distributed


@dataclass(frozen=True)
class Shard:
    """Share ``index`` of ``count`` of a batch. Minibatch standard deviation groups slices i, i + M, i + 2M, ...: no group is cut."""

    index: int = 0
    count: int = 1
    group_size: int = 4

    @classmethod
    def own(cls, batch_size: int, group_size: int) -> Shard:
        """The share of this process. ValueError where the processes cannot share such a batch."""
        world, group = distributed.world(), min(group_size, batch_size)
        if batch_size % (group * world):
            raise ValueError(
                f"A batch of {batch_size} does not fall into {world} shares of whole groups of {group}, one for each process; "
                f"take a --batch-size that is a multiple of {group * world}."
            )
        return cls(distributed.rank(), world, group)

    def rows(self, total: int) -> slice | Tensor:
        """Rows of this share in a batch of ``total``: whole groups, in order. The shares together are the batch."""
        if self.count == 1:
            return slice(None)
        size = min(self.group_size, total // self.count)
        groups = total // size  # slice i sits in group i mod groups
        assert size * groups == total and groups % self.count == 0, f"{total} rows do not fall into {self.count} shares"
        return torch.arange(total)[torch.arange(total) % groups // (groups // self.count) == self.index]

    def take(self, whole: Tensor | None) -> Tensor | None:
        """The rows of a tensor [total, ...] that belong to this share; None stays None."""
        return whole if whole is None or self.count == 1 else whole[self.rows(len(whole)).to(whole.device)]


@dataclass(frozen=True)
class BatchRNG:
    """A source of random numbers; ``n`` is always the number of rows of this share."""

    device: torch.device
    generator: torch.Generator | None = None
    shard: Shard = Shard()

    def normal(self, n: int, *shape: int) -> Tensor:
        """[n, *shape], standard normal."""
        return self.shard.take(torch.randn(n * self.shard.count, *shape, generator=self.generator, device=self.device))

    def uniform(self, n: int, *shape: int) -> Tensor:
        """[n, *shape], uniform in [0, 1)."""
        return self.shard.take(torch.rand(n * self.shard.count, *shape, generator=self.generator, device=self.device))

    def integers(self, low: int, high: int, n: int, *shape: int) -> Tensor:
        """[n, *shape], int64 from low to high - 1."""
        size = (n * self.shard.count, *shape)
        return self.shard.take(torch.randint(low, high, size, generator=self.generator, device=self.device))
