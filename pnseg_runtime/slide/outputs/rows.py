"""GeoJSON and Parquet of a slide, written core by core."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet

from pnseg_runtime.nuclei import NucleusClass
from pnseg_runtime.outputs import geojson, wkb
from pnseg_runtime.slide.table import PUBLIC


class Sink(Protocol):
    """Takes the nuclei of one core after the other."""

    def add(self, core: str, table: pa.Table, first: int) -> None:
        """Write a core's rows, of which the first has the number ``first``."""

    def close(self) -> None:
        """Write what comes last."""

    def release(self) -> None:
        """Let go of what writes, while the streams are open; after an error too."""


class GeoJsonSink:
    """Features for QuPath, plain and compressed: both come from the same lines."""

    def __init__(
        self,
        streams: Sequence[BinaryIO],
        packed: Sequence[BinaryIO],
        identity: str,
        class_table: Sequence[NucleusClass],
        mpp: float,
    ) -> None:
        """Write the head.

        Args:
            streams: take the text.
            packed: take it compressed.
            identity: of the slide, goes into the features' ids.
            class_table: the model's classes.
            mpp: microns per pixel of level 0.
        """
        # No name and no time in the file: the same nuclei are the same bytes.
        self._gzips = [gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=s, mtime=0) for s in packed]
        self._streams: list[Any] = [*streams, *self._gzips]
        self._identity = identity
        self._kinds = {kind.name: kind for kind in class_table}
        self._mpp = mpp
        self._write(geojson.HEAD)

    def add(self, core: str, table: pa.Table, first: int) -> None:
        lines = [
            geojson.line_of(feature, first=first + index == 1)
            for index, feature in enumerate(self._features(core, table, first))
        ]
        self._write(b"".join(lines))

    def close(self) -> None:
        self._write(geojson.TAIL)
        self.release()

    def release(self) -> None:
        for stream in self._gzips:
            stream.close()

    def _write(self, data: bytes) -> None:
        for stream in self._streams:
            stream.write(data)

    def _features(self, core: str, table: pa.Table, first: int) -> Iterator[dict[str, Any]]:
        names = ("class", "score", "predicted_iou", "area_px", "perimeter_px", "eccentricity", "geometry")
        columns = [table[name].to_pylist() for name in names]
        for index, row in enumerate(zip(*columns, strict=True)):
            name, score, iou, area, perimeter, eccentricity, geometry = row
            yield geojson.feature(
                identity=f"{self._identity}/{core}/{index}",
                kind=self._kinds[name],
                polygons=wkb.decode(geometry),
                measurements=geojson.named_measurements(
                    label=first + index,
                    area=area,
                    perimeter=perimeter,
                    eccentricity=eccentricity,
                    score=score,
                    iou=iou,
                    mpp=self._mpp,
                ),
            )


class ParquetSink:
    """GeoParquet: one row a nucleus, one row group a core, so that a part of a slide can be read by itself."""

    def __init__(self, stream: BinaryIO) -> None:
        geo = {
            "version": "1.1.0",
            "primary_column": "geometry",
            "columns": {
                "geometry": {
                    "encoding": "WKB",
                    "geometry_types": ["Polygon", "MultiPolygon"],
                    "crs": None,  # px of the slide: no place on earth
                    "edges": "planar",
                }
            },
        }
        number = pa.field("id", pa.uint32(), nullable=False, metadata={"unit": "label"})
        self._schema = pa.schema([number, *PUBLIC], metadata={"geo": json.dumps(geo)})
        self._writer = pyarrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")

    def add(self, core: str, table: pa.Table, first: int) -> None:
        if not table.num_rows:
            return
        numbers = pa.array(range(first, first + table.num_rows), pa.uint32())
        columns = [numbers, *(table[field.name] for field in PUBLIC)]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=table.num_rows)

    def close(self) -> None:
        self.release()

    def release(self) -> None:
        self._writer.close()
