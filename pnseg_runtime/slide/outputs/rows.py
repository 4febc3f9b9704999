"""GeoJSON and Parquet of a slide, written core by core."""

from __future__ import annotations

import gzip
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet

from pnseg_runtime.outputs import geojson, wkb
from pnseg_runtime.slide.plan import Core
from pnseg_runtime.slide.table import PUBLIC

if TYPE_CHECKING:
    from pnseg_runtime.slide.job import SlideJob


@dataclass(frozen=True)
class Part:
    """A core's nuclei on their way into the outputs.

    Attributes:
        job: the slide.
        core: whose they are.
        rows: of :data:`pnseg_runtime.slide.table.SCHEMA`.
        first: number of the first row.
    """

    job: SlideJob
    core: Core
    rows: pa.Table
    first: int

    @cached_property
    def lines(self) -> bytes:
        """The features of a GeoJSON, each a line: made once for all that are written of them."""
        return b"".join(
            geojson.line_of(feature, first=self.first + index == 1) for index, feature in enumerate(self._features())
        )

    def _features(self) -> Iterator[dict[str, Any]]:
        kinds = {kind.name: kind for kind in self.job.bundle.manifest.class_table}
        names = ("class", "score", "predicted_iou", "area_px", "perimeter_px", "eccentricity", "geometry")
        columns = [self.rows[name].to_pylist() for name in names]
        for index, row in enumerate(zip(*columns, strict=True)):
            name, score, iou, area, perimeter, eccentricity, geometry = row
            yield geojson.feature(
                identity=f"{self.job.slide_sha256}/{self.core.name}/{index}",
                kind=kinds[name],
                polygons=wkb.decode(geometry),
                measurements=geojson.named_measurements(
                    label=self.first + index,
                    area=area,
                    perimeter=perimeter,
                    eccentricity=eccentricity,
                    score=score,
                    iou=iou,
                    mpp=self.job.resolution.slide_mpp,
                ),
            )


class Sink(ABC):
    """Takes the nuclei of one core after the other; made of a job and what it writes to."""

    @abstractmethod
    def add(self, part: Part) -> None:
        """Write a core's rows."""

    def close(self) -> None:
        """Write what comes last."""
        self.release()

    def release(self) -> None:
        """Let go of what writes, while the streams are open; after an error too."""
        return


class GeoJsonSink(Sink):
    """Features for QuPath."""

    def __init__(self, _: SlideJob, stream: BinaryIO) -> None:
        self._stream = stream
        stream.write(geojson.HEAD)

    def add(self, part: Part) -> None:
        self._stream.write(part.lines)

    def close(self) -> None:
        self._stream.write(geojson.TAIL)
        self.release()


class PackedGeoJsonSink(GeoJsonSink):
    """The same, compressed."""

    def __init__(self, job: SlideJob, stream: BinaryIO) -> None:
        # No name and no time in the file: the same nuclei are the same bytes.
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0)
        super().__init__(job, cast(BinaryIO, self._gzip))

    def release(self) -> None:
        self._gzip.close()


class ParquetSink(Sink):
    """GeoParquet: one row a nucleus, one row group a core, so that a part of a slide can be read by itself."""

    def __init__(self, _: SlideJob, stream: BinaryIO) -> None:
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

    def add(self, part: Part) -> None:
        count = part.rows.num_rows
        if not count:
            return
        numbers = pa.array(range(part.first, part.first + count), pa.uint32())
        columns = [numbers, *(part.rows[field.name] for field in PUBLIC)]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=count)

    def release(self) -> None:
        self._writer.close()
