"""PQ's overlap matching on the GPU, for benchmarks (:func:`pnseg_runtime.metrics.panoptic_quality`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pnseg_runtime.cuda.driver import Device, as_array
from pnseg_runtime.metrics import LabelMap

THREADS, BLOCKS = 256, 128


def matched_overlaps(device: Device, truth: LabelMap, prediction: LabelMap) -> NDArray[np.int32]:
    """For each nucleus of the truth the prediction with an IoU over 0.5, of which there is one at most.

    Args:
        device: the GPU.
        truth: (H, W), 0 background, nuclei 1 to N.
        prediction: (H, W), 0 background, nuclei 1 to M.

    Returns:
        (N, 3) int32: the prediction's label, the pixels that both share and those that either has; zeros without.

    Raises:
        ValueError: maps of different shapes, or with negative labels.
        BackendError: the GPU fails.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"The label maps must be of one shape, not {truth.shape} and {prediction.shape}.")
    if min(truth.min(initial=0), prediction.min(initial=0)) < 0:
        raise ValueError("A label map must not have negative labels.")
    rows, columns = int(truth.max(initial=0)) + 1, int(prediction.max(initial=0)) + 1
    if rows == 1 or columns == 1:
        return np.zeros((rows - 1, 3), np.int32)
    with device.current():
        stream = device.stream()
        maps = device.pinned(8 * truth.size)
        for index, labels in enumerate((truth, prediction)):
            as_array(maps, truth.size, np.int32, 4 * truth.size * index)[:] = np.ravel(labels)
        on_device, matches = device.memory(maps.nbytes), device.memory(12 * (rows - 1))
        counts = device.memory(4 * (rows * columns + rows + columns))
        table, first = int(counts), int(counts) + 4 * rows * columns
        device.upload(stream, int(on_device), maps)
        device.fill(stream, table, 0, 4 * (rows * columns + rows + columns))
        device.launch(stream, "count_overlaps", BLOCKS, THREADS, int(on_device), int(on_device) + 4 * truth.size,
                      truth.size, columns, table, first, first + 4 * rows)  # fmt: skip
        device.launch(stream, "match_overlaps", -(-(rows - 1) * 32 // THREADS), THREADS, table, first,
                      first + 4 * rows, rows - 1, columns, int(matches))  # fmt: skip
        result = device.pinned(12 * (rows - 1))
        device.download(stream, result, int(matches))
        device.synchronise(stream)
        return as_array(result, 3 * (rows - 1), np.int32).reshape(-1, 3).copy()


def panoptic_quality(device: Device, truth: LabelMap, prediction: LabelMap) -> dict[str, float]:
    """``pq``, ``dq`` and ``sq`` of :func:`pnseg_runtime.metrics.panoptic_quality`, for maps with labels 1 to N and M.

    Raises:
        ValueError, BackendError: as :func:`matched_overlaps`.
    """
    matches = matched_overlaps(device, truth, prediction)
    matches = matches[matches[:, 0] > 0]
    nuclei = int(truth.max(initial=0)) + int(prediction.max(initial=0))
    if not nuclei:
        return {"pq": 1.0, "dq": 1.0, "sq": 1.0}
    dq = 2 * len(matches) / nuclei
    sq = float((matches[:, 1] / matches[:, 2]).mean()) if len(matches) else 0.0
    return {"pq": dq * sq, "dq": dq, "sq": sq}
