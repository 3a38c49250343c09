"""Random numbers of a training step: always those of the whole batch, of which each part sees its own rows.

A batch may be shared between processes, or worked off in pieces where memory is short. All of them draw the same numbers from
the same generator and keep their own rows, so that the picture of slice i does not depend on who computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Piece ``index`` of ``count`` of a batch. Minibatch standard deviation groups slices i, i + M, i + 2M, ...: no group is cut."""

    index: int = 0
    count: int = 1
    group_size: int = 4

    def rows(self, total: int) -> slice | Tensor:
        """Rows of this piece in a batch of ``total``: whole groups, in order. The pieces together are the batch."""
        if self.count == 1:
            return slice(None)
        size = min(self.group_size, total // self.count)
        groups = total // size  # slice i sits in group i mod groups
        assert size * groups == total and groups % self.count == 0, f"{total} rows do not fall into {self.count} pieces"
        return torch.arange(total)[torch.arange(total) % groups // (groups // self.count) == self.index]

    def of(self, whole: Tensor | None) -> Tensor | None:
        """The rows of a tensor [total, ...] that belong to this piece; None stays None."""
        return whole if whole is None or self.count == 1 else whole[self.rows(len(whole)).to(whole.device)]


@dataclass(frozen=True)
class Draws:
    """A source of random numbers; ``n`` is always the number of rows of this part."""

    device: torch.device
    generator: torch.Generator | None = None
    part: Part = Part()

    def normal(self, n: int, *shape: int) -> Tensor:
        """[n, *shape], standard normal."""
        return self.part.of(torch.randn(n * self.part.count, *shape, generator=self.generator, device=self.device))

    def uniform(self, n: int, *shape: int) -> Tensor:
        """[n, *shape], uniform in [0, 1)."""
        return self.part.of(torch.rand(n * self.part.count, *shape, generator=self.generator, device=self.device))

    def integers(self, low: int, high: int, n: int, *shape: int) -> Tensor:
        """[n, *shape], int64 from low to high - 1."""
        size = (n * self.part.count, *shape)
        return self.part.of(torch.randint(low, high, size, generator=self.generator, device=self.device))
