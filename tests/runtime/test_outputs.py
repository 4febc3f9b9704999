from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime import outputs
from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs import KINDS, OutputKind, Prediction, output_paths, write_outputs
from tests.runtime.made import nuclei_of, sample, square_ring_and_pair

WHITE = np.full((30, 40, 3), 255, np.uint8)
PREDICTION = Prediction(WHITE, square_ring_and_pair())


def test_every_kind_is_written_under_the_images_stem(tmp_path: Path) -> None:
    write_outputs(PREDICTION, output_paths(tmp_path, "tile.ome"))
    expected = ["csv", "geojson", "labels.tif", "overlay.png", "parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"tile.ome.{end}" for end in expected]


def test_the_same_prediction_gives_the_same_bytes(tmp_path: Path) -> None:
    for stem in ("first", "second"):
        write_outputs(PREDICTION, output_paths(tmp_path, stem))
    for kind in KINDS.values():
        assert (tmp_path / f"first{kind.suffix}").read_bytes() == (tmp_path / f"second{kind.suffix}").read_bytes()


@pytest.mark.parametrize("shape", [(1, 1), (10, 3000), (30, 40)])
def test_no_nuclei_give_files_of_every_kind(shape: tuple[int, int], tmp_path: Path) -> None:
    empty = Prediction(np.zeros((*shape, 3), np.uint8), nuclei_of([], shape))
    write_outputs(empty, output_paths(tmp_path, "empty"))
    assert all((tmp_path / f"empty{kind.suffix}").stat().st_size > 0 for kind in KINDS.values())


def test_a_writer_that_fails_leaves_no_file_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = OutputKind("overlay", ".overlay.png", "operator:truediv", "a prediction cannot be divided by a stream")
    monkeypatch.setattr(outputs, "KINDS", {**KINDS, "overlay": broken})
    with pytest.raises(TypeError):
        write_outputs(PREDICTION, output_paths(tmp_path, "tile"))
    assert list(tmp_path.iterdir()) == []


def test_an_older_result_is_kept_when_overwriting_is_off(tmp_path: Path) -> None:
    (tmp_path / "tile.csv").write_text("old")
    with pytest.raises(OutputError, match=r"tile\.csv: exists already"):
        write_outputs(PREDICTION, output_paths(tmp_path, "tile"), overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["tile.csv"]
    assert (tmp_path / "tile.csv").read_text() == "old"


def test_the_registry_loads_no_table_library() -> None:
    code = "import sys, pnseg_runtime.outputs; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_content_hash_follows_the_pixels_and_the_shape() -> None:
    image = sample()
    nuclei = nuclei_of([], image.shape[:2])
    changed = image.copy()
    changed[0, 0, 0] ^= 1
    hashes = {
        Prediction(pixels, nuclei).content_hash
        for pixels in (image, np.asfortranarray(image), changed, image.reshape(320, 256, 3))
    }
    assert len(hashes) == 3
