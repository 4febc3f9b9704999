from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime import outputs
from pnseg_runtime.errors import OutputError
from pnseg_runtime.outputs import KINDS, OutputKind, Prediction, output_paths, write_outputs
from pnseg_runtime.outputs.origin import Origin
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


OTHER = Prediction(WHITE[:20], nuclei_of([(3, 2, np.ones((4, 6), bool))], (20, 40)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_tells_which_image_it_is_of(kind: str, tmp_path: Path) -> None:
    (path,) = output_paths(tmp_path, "tile", [kind]).values()
    write_outputs(PREDICTION, {kind: path})
    same, other = (KINDS[kind].origin(path, each.content_hash) for each in (PREDICTION, OTHER))
    assert (same, other) == ((Origin.SOME,) * 2 if kind == "csv" else (Origin.SAME, Origin.OTHER))


@pytest.mark.parametrize("kind", ["labels", "parquet", "overlay"])
def test_a_large_file_tells_which_image_it_is_of(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (1500, 1500, 3), np.uint8)
    dots = [(3 * (i % 500), 3 * (i // 500), np.ones((1, 1), bool)) for i in range(100_000)]
    prediction = Prediction(noise, nuclei_of(dots, (1500, 1500)))
    monochrome = {"overlay": Prediction(noise, nuclei_of([], (1500, 1500)))}
    (path,) = output_paths(tmp_path, "tile", [kind]).values()
    write_outputs(written := monochrome.get(kind, prediction), {kind: path})
    assert path.stat().st_size > 200_000
    assert KINDS[kind].origin(path, written.content_hash) is Origin.SAME


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "content", [b"", b"mine", b'{"type": "FeatureCollection", "features": []}', b"id,class\n1,a\n"]
)
def test_a_file_that_is_no_result_is_not_taken_for_one(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert KINDS[kind].origin(tmp_path / "file", PREDICTION.content_hash) is Origin.UNKNOWN
    assert KINDS[kind].origin(tmp_path, PREDICTION.content_hash) is Origin.UNKNOWN


def test_an_outdated_file_of_another_kind_goes_and_a_current_one_stays(tmp_path: Path) -> None:
    paths = output_paths(tmp_path, "tile")
    write_outputs(OTHER, paths)
    write_outputs(PREDICTION, {"geojson": paths["geojson"]})
    assert list(tmp_path.iterdir()) == [paths["geojson"]]
    write_outputs(PREDICTION, {"csv": paths["csv"]})
    assert sorted(tmp_path.iterdir()) == sorted([paths["csv"], paths["geojson"]])
