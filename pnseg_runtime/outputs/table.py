"""One row a nucleus, as CSV and Parquet: one Arrow table with named units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from pnseg_runtime.outputs.origin import Origin, mark
from pnseg_runtime.outputs.prediction import Prediction


@dataclass(frozen=True)
class Column:
    """A column: its name, Arrow type, unit and where its values come from."""

    name: str
    type: pa.DataType
    unit: str
    values: Callable[[Prediction], NDArray[Any]]


def _class_names(prediction: Prediction) -> NDArray[Any]:
    names = np.array([kind.name for kind in prediction.nuclei.class_table], dtype=object)
    return names[prediction.nuclei.classes]


def _in_microns(column: Column, name: str, power: int) -> Column:
    """The same quantity in µm or µm²; only for an image whose pixel size is known."""

    def values(prediction: Prediction) -> NDArray[Any]:
        scale = float(prediction.nuclei.mpp or np.nan) ** power
        return np.asarray(column.values(prediction), np.float64) * scale

    return Column(name, pa.float32(), {1: "µm", 2: "µm²"}[power], values)


_AREA = Column("area_px", pa.int64(), "px²", lambda p: p.measurements.area)
_PERIMETER = Column("perimeter_px", pa.float32(), "px", lambda p: p.measurements.perimeter)

# Pixel centres lie at integers; boxes exclude x1 and y1.
COLUMNS = (
    Column("id", pa.uint32(), "label", lambda p: np.arange(1, len(p.nuclei) + 1)),
    Column("class", pa.string(), "", _class_names),
    Column("score", pa.float32(), "probability", lambda p: p.nuclei.scores),
    Column("predicted_iou", pa.float32(), "IoU", lambda p: p.nuclei.ious),
    Column("centroid_x", pa.float32(), "px", lambda p: p.measurements.centroids[:, 0]),
    Column("centroid_y", pa.float32(), "px", lambda p: p.measurements.centroids[:, 1]),
    Column("bbox_x0", pa.int32(), "px", lambda p: p.nuclei.boxes[:, 0]),
    Column("bbox_y0", pa.int32(), "px", lambda p: p.nuclei.boxes[:, 1]),
    Column("bbox_x1", pa.int32(), "px", lambda p: p.nuclei.boxes[:, 2]),
    Column("bbox_y1", pa.int32(), "px", lambda p: p.nuclei.boxes[:, 3]),
    _AREA,
    _PERIMETER,
    Column("eccentricity", pa.float32(), "", lambda p: p.measurements.eccentricity),
)
MICRON_COLUMNS = (_in_microns(_AREA, "area_um2", 2), _in_microns(_PERIMETER, "perimeter_um", 1))


def table_of(prediction: Prediction) -> pa.Table:
    """The rows of a prediction, in label order; units stand in the fields' metadata, the image in the schema's.

    The columns in µm are there when the image's microns per pixel are known.
    """
    columns = COLUMNS + (MICRON_COLUMNS if prediction.nuclei.mpp is not None else ())
    fields = [pa.field(c.name, c.type, nullable=False, metadata={"unit": c.unit}) for c in columns]
    arrays = [pa.array(np.asarray(c.values(prediction)), from_pandas=False).cast(c.type) for c in columns]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, {"image": mark(prediction.content_hash)}))


def write_csv(prediction: Prediction, stream: BinaryIO) -> None:
    """Write the table as UTF-8 text with a header line."""
    pyarrow.csv.write_csv(table_of(prediction), stream)


def csv_origin(path: Path, content_hash: str) -> Origin:  # noqa: ARG001 - text has no room to say which image
    """Whether a file has the header of :func:`write_csv`."""
    headers = [[column.name for column in columns] for columns in (COLUMNS, COLUMNS + MICRON_COLUMNS)]
    with path.open("rb") as stream:
        names = stream.readline(1 << 12).decode(errors="replace").strip().replace('"', "").split(",")
    return Origin.SOME if names in headers else Origin.UNKNOWN


def write_parquet(prediction: Prediction, stream: BinaryIO) -> None:
    """Write the table as Parquet."""
    pyarrow.parquet.write_table(table_of(prediction), stream)
