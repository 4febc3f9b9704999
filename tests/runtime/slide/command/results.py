"""What a command has written."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def rows(out: Path) -> list[dict]:
    return pq.read_table(out).to_pylist()


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
