"""Annotations of Aperio ImageScope: one polygon a region."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from pnseg_runtime.errors import ImageError
from pnseg_train.datasets.polygons import Polygon


def read_regions(path: Path) -> list[Polygon]:
    """The polygons of a file, (V, 2) float64 each, (x, y) in px at pixel edges, in the order of the file.

    ImageScope cuts the place of the pointer off at a screen pixel, so a vertex (3.2, 5.8) drawn at
    fivefold zoom lies 3.2 to 3.4 px from the image's left edge. Regions without an area (fewer than
    three vertices) are left out.

    Raises:
        ImageError: the file is missing, is no such annotation, or declares entities.
    """
    try:
        regions = [
            np.array([(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in region.iter("Vertex")])
            for region in parse(path).iter("Region")
        ]
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); put the annotation there.") from error
    except DefusedXmlException as error:
        raise ImageError(f"{path}: declares XML entities, which annotations never need; export it again.") from error
    except (ParseError, KeyError, ValueError) as error:
        raise ImageError(f"{path}: not a complete Aperio annotation ({error}); download it again.") from error
    if not all(np.isfinite(region).all() for region in regions):
        raise ImageError(f"{path}: a vertex is not a number; download it again.")
    return [region for region in regions if len(region) >= 3]
