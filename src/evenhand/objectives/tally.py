"""Means that have not been divided yet, so that they can still be added up."""

from dataclasses import dataclass

import torch
from torch import Tensor

from evenhand.errors import DataError


@dataclass(frozen=True, slots=True)
class Tally:
    """A total and the weight it is to be divided by, in float64.

    >>> (Tally.of(torch.tensor([1.0, 0.0, 1.0])) + Tally.of(torch.tensor([0.0]))).mean()
    0.5
    """

    total: Tensor
    weight: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Tally":
        """The sum of `values`, each of weight one."""
        values = values.detach().double()
        return cls(values.sum(), torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.total + other.total, self.weight + other.weight)

    def mean(self) -> float:
        """The mean; raises DataError where nothing was counted."""
        if self.weight.item() == 0:
            raise DataError("mean of nothing: no item was counted")
        return float((self.total / self.weight).item())
