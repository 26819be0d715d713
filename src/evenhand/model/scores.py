"""What a policy thinks of pairs: summed log-probabilities and token counts, in nats.

Shapes: B pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from evenhand.errors import DataError
from evenhand.model.encode import EncodedPair

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
# What a file says of itself where its scores are rewards.
_OF_REWARDS = {b"evenhand.scores": b"rewards"}


@dataclass(frozen=True, slots=True)
class PairScores:
    """Scores of B pairs as tensors with a gradient. Sums stay sums until a name says mean.

    An absent side has a sum of 0 and no tokens, so its mean is not a number.
    """

    chosen_sum_B: Tensor
    rejected_sum_B: Tensor
    chosen_tokens_B: Tensor
    rejected_tokens_B: Tensor

    @property
    def chosen_mean_B(self) -> Tensor:
        """Mean log-probability of the chosen answer, nats per token."""
        return self.chosen_sum_B / self.chosen_tokens_B

    @property
    def rejected_mean_B(self) -> Tensor:
        """Mean log-probability of the rejected answer, nats per token."""
        return self.rejected_sum_B / self.rejected_tokens_B

    @property
    def mean_gap_B(self) -> Tensor:
        """Chosen minus rejected, nats per token."""
        return self.chosen_mean_B - self.rejected_mean_B

    def detached(self) -> "PairScores":
        """The same numbers without a gradient."""
        return PairScores(
            self.chosen_sum_B.detach(), self.rejected_sum_B.detach(), self.chosen_tokens_B, self.rejected_tokens_B
        )


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Scores of B pairs as float64 arrays, with the ids that lead back to the data.

    `are_rewards`: a mean is a reward model's reward, and a sum is nothing but that times the tokens.
    """

    row_B: Integers
    id_B: tuple[str, ...]
    chosen_sum_B: Floats
    rejected_sum_B: Floats
    chosen_tokens_B: Integers
    rejected_tokens_B: Integers
    are_rewards: bool = False

    @property
    def chosen_mean_B(self) -> Floats:
        """Mean log-probability of the chosen answer, nats per token; NaN for an answer that is absent."""
        return _means(self.chosen_sum_B, self.chosen_tokens_B)

    @property
    def rejected_mean_B(self) -> Floats:
        """Mean log-probability of the rejected answer, nats per token; NaN for an answer that is absent."""
        return _means(self.rejected_sum_B, self.rejected_tokens_B)

    @property
    def mean_gap_B(self) -> Floats:
        """Chosen minus rejected, nats per token."""
        return self.chosen_mean_B - self.rejected_mean_B

    def gap_B(self, per_token: bool) -> Floats:
        """Chosen minus rejected: of means, or of sums."""
        return self.mean_gap_B if per_token else self.sum_gap_B

    @property
    def sum_gap_B(self) -> Floats:
        """Chosen minus rejected in summed log-probability, nats."""
        return self.chosen_sum_B - self.rejected_sum_B

    def __len__(self) -> int:
        return len(self.id_B)

    @classmethod
    def of(
        cls, pairs: Sequence[EncodedPair], chosen_sum_B: Floats, rejected_sum_B: Floats, are_rewards: bool = False
    ) -> "ScoredPairs":
        """Sums of these pairs, in their order."""
        return cls(
            row_B=np.array([pair.row for pair in pairs], dtype=np.int64),
            id_B=tuple(pair.id for pair in pairs),
            chosen_sum_B=chosen_sum_B,
            rejected_sum_B=rejected_sum_B,
            chosen_tokens_B=np.array([pair.chosen.scored for pair in pairs], dtype=np.int64),
            rejected_tokens_B=np.array([pair.rejected.scored for pair in pairs], dtype=np.int64),
            are_rewards=are_rewards,
        )

    def tensors(self, device: torch.device | str = "cpu") -> PairScores:
        """The same numbers as an objective takes them."""
        columns = (self.chosen_sum_B, self.rejected_sum_B, self.chosen_tokens_B, self.rejected_tokens_B)
        return PairScores(*(torch.from_numpy(np.ascontiguousarray(column_B)).to(device) for column_B in columns))

    def table(self) -> pa.Table:
        """One row a pair, in the columns that `evenhand score` promises."""
        made = pa.table(
            {
                "row": self.row_B,
                "id": list(self.id_B),
                "chosen_sum": self.chosen_sum_B,
                "rejected_sum": self.rejected_sum_B,
                "chosen_tokens": self.chosen_tokens_B,
                "rejected_tokens": self.rejected_tokens_B,
                "chosen_mean": self.chosen_mean_B,
                "rejected_mean": self.rejected_mean_B,
            }
        )
        return made.replace_schema_metadata(_OF_REWARDS) if self.are_rewards else made

    def write(self, path: Path, table: pa.Table | None = None) -> None:
        """Keep the table, or one that has more columns, as Parquet; a reader sees the old file or the new one, never a part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.staging")
        pq.write_table(self.table() if table is None else table, staging)
        staging.replace(path)

    @classmethod
    def read(cls, path: Path) -> "ScoredPairs":
        """The scores kept in a Parquet file; raises DataError if it is not one of ours."""
        try:
            schema: pa.Schema = pq.read_schema(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} is not a readable Parquet file; write it with `evenhand score`.") from error
        wanted = ("row", "id", "chosen_sum", "rejected_sum", "chosen_tokens", "rejected_tokens")
        if missing := [name for name in wanted if name not in schema.names]:
            raise DataError(f"{path}: the columns {missing} are missing; write the file with `evenhand score`.")
        table = pq.read_table(path, columns=list(wanted))
        column = {name: table[name].to_numpy() for name in wanted if name != "id"}
        return cls(
            column["row"].astype(np.int64),
            tuple(table["id"].to_pylist()),
            column["chosen_sum"].astype(np.float64),
            column["rejected_sum"].astype(np.float64),
            column["chosen_tokens"].astype(np.int64),
            column["rejected_tokens"].astype(np.int64),
            are_rewards=_OF_REWARDS.items() <= (schema.metadata or {}).items(),
        )


def _means(sum_B: Floats, tokens_B: Integers) -> Floats:
    means_B = np.full(len(sum_B), np.nan)
    np.divide(sum_B, tokens_B, out=means_B, where=tokens_B > 0)
    return means_B
