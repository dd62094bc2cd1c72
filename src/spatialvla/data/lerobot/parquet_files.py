"""Parquet files of a dataset, read with errors that name the file, and no larger than they can be meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from spatialvla.common.budget import Budget, OverBudget
from spatialvla.common.seals import check_seal, seal_parquet
from spatialvla.errors import CheckpointError

T = TypeVar("T")

_SPREAD, _SLACK = 1000, 64 * 2**20
"""How many times its own bytes a file may take in memory, and these; of real ones none reaches a hundred times."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_ROWS_AT_ONCE = 2**16


def read_parquet(path: Path, read: Callable[[], T]) -> T:
    """Call `read`, with errors that name the parquet file.

    Raises CheckpointError, also where the file has a checksum and it does not hold.
    """
    check_seal(path)
    try:
        return read()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole dataset folder.") from error
    except OverBudget as error:
        raise CheckpointError(
            f"{path} holds far more than its size can mean ({error}); copy it again."
        ) from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"{path} is truncated or not a parquet file ({reason}); copy it again."
        ) from error


def write_parquet(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """One row group for each table, with a checksum of each page and of the file, see `read_parquet`."""
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)
    seal_parquet(path)


def open_parquet(path: Path) -> pq.ParquetFile:
    """For reading; pages that have checksums are checked."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def read_columns(
    path: Path,
    file: pq.ParquetFile,
    columns: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
) -> pa.Table:
    """Some columns of some row groups, all unless given.

    Raises CheckpointError where two columns have one name, and OverBudget where they would take far more memory
    than the file's size can mean: numbers are counted before they are read, and of text and bytes, of which one
    can be meant many times, a few rows are read at a time.
    """
    most = _SPREAD * path.stat().st_size + _SLACK
    if twice := sorted(name for name, times in Counter(file.schema_arrow.names).items() if times > 1):
        raise CheckpointError(f"{path} has two columns called '{twice[0]}'; write it again with one of them.")
    budget = Budget(2**63, most)
    groups = list(range(file.metadata.num_row_groups) if groups is None else groups)
    names = None if columns is None else list(columns)
    largest = 0  # bytes that one text can have
    for group in map(file.metadata.row_group, groups):
        for chunk in map(group.column, range(group.num_columns)):
            if names is None or any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in names):
                width = _WIDTHS.get(chunk.physical_type)
                budget.spend(
                    size=chunk.total_uncompressed_size if width is None else chunk.num_values * width
                )
                if width is None and any("DICTIONARY" in encoding for encoding in chunk.encodings):
                    largest = max(largest, chunk.total_uncompressed_size)
    if not largest:
        return file.read_row_groups(groups, columns=names)
    budget = Budget(2**63, most)
    batches = []
    for batch in file.iter_batches(max(1, min(_ROWS_AT_ONCE, most // largest)), groups, names):
        budget.spend(size=batch.nbytes)
        batches.append(batch)
    return pa.Table.from_batches(batches) if batches else file.read_row_groups(groups, columns=names)
