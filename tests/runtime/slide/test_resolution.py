"""Known places come back to half a pixel, at every scale, level and size of tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pnseg_runtime.errors import ImageError
from pnseg_runtime.slide import tissue
from pnseg_runtime.slide.readers import READERS, open_slide
from pnseg_runtime.slide.readers.base import Box, Facts, Level, SlideReader, UnreadableRegion, downsample_of
from pnseg_runtime.slide.resolution import at_scale, read_seen, read_work, resolve
from pnseg_runtime.slide.tissue import thumbnail_of
from pnseg_runtime.softening import Blur, Blurs, see
from tests.runtime.slide.made import sample_mosaic

SPOTS = np.array([(101, 77), (333, 222), (512, 480), (640, 31), (41, 505), (719, 560)])


def spotted(shape: tuple[int, int] = (577, 761), spots: NDArray[np.integer] = SPOTS) -> NDArray[np.uint8]:
    """White with dark round spots around known pixel centres."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    dark = sum(np.exp(-((x - sx) ** 2 + (y - sy) ** 2) / (2 * 5.0**2)) for sx, sy in spots)
    return np.repeat((255 - 255 * np.clip(dark, 0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = (side // 2 for side in image.shape[:2])
    blocks = image[: height * 2, : width * 2].reshape(height, 2, width, 2, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def write_pyramid(path: Path, image: NDArray[np.uint8], levels: int, tile: int, mpp: float | None = 0.25) -> Path:
    """A tiled TIFF whose levels are the means of 2×2 px of the one above; a lossless one."""
    scale = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            writer.write(
                image,
                tile=(tile, tile),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(level > 0),
                **(scale if level == 0 else {}),
            )
            image = halved(image)
    return path


def centres_of(pixels: NDArray[np.uint8], about: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    """The centre of mass of the darkness around places."""
    dark = 255.0 - pixels.mean(axis=2)
    found = []
    for x, y in about.round().astype(int):
        x0, y0 = max(x - radius, 0), max(y - radius, 0)
        part = dark[y0 : y + radius + 1, x0 : x + radius + 1]
        rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
        found.append((x0 + (part * columns).sum() / part.sum(), y0 + (part * rows).sum() / part.sum()))
    return np.array(found)


@pytest.mark.parametrize("reader", ["openslide", "tiff", "tiffslide"])
@pytest.mark.parametrize("tile", [128, 256])
@pytest.mark.parametrize("model_mpp", [0.17, 0.25, 0.26, 0.5, 0.61, 1.1])
def test_known_points_come_back_to_half_a_pixel(reader: str, tile: int, model_mpp: float, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "spots.tif", spotted(), 3, tile)
    slide = open_slide(path, [each for each in READERS if each.name == reader])
    resolution = resolve(slide, model_mpp)
    height, width = resolution.shape
    pixels = read_work(slide, resolution, (0, 0, width, height)).pixels
    assert pixels.shape == (height, width, 3)
    about = (SPOTS + 0.5) / resolution.scale - 0.5
    found = centres_of(pixels, about, round(18 / resolution.scale))
    np.testing.assert_allclose(resolution.full_centres(found), SPOTS, atol=0.5)
    slide.close()


@pytest.mark.parametrize("scale", [0.68, 1.0, 1.5, 2.0, 3.7])
def test_tiles_are_what_the_whole_is_cut_into(scale: float, tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "spots.tif", spotted(), 3, 128))
    resolution = at_scale(slide, scale)
    height, width = resolution.shape
    whole = read_work(slide, resolution, (0, 0, width, height)).pixels.astype(int)
    for y0 in range(0, height, 61):
        for x0 in range(0, width, 97):
            box = (x0, y0, min(x0 + 97, width), min(y0 + 61, height))
            part = read_work(slide, resolution, box).pixels.astype(int)
            assert np.abs(part - whole[box[1] : box[3], box[0] : box[2]]).max() <= 1


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_tiles_are_softened_as_the_whole_is(scale: float, tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "spots.tif", spotted(), 3, 128))
    resolution = at_scale(slide, scale)
    height, width = resolution.shape
    blurs = Blurs(prompter=Blur(2.0, 5.0), segmentor=Blur(0.0, 2.0))
    whole = see(read_work(slide, resolution, (0, 0, width, height)).pixels, blurs)
    for y0 in range(0, height, 131):
        for x0 in range(0, width, 97):
            box = (x0, y0, min(x0 + 97, width), min(y0 + 131, height))
            part, expected = read_seen(slide, resolution, box, blurs).seen, whole.cut(*box)
            for got, wanted in ((part.prompter, expected.prompter), (part.segmentor, expected.segmentor)):
                assert np.abs(got.astype(int) - wanted).max() <= (0 if scale == 1 else 2)


@given(scale=st.floats(0.2, 8), x=st.floats(0, 300_000), y=st.floats(0, 300_000))
def test_coordinates_go_there_and_back(scale: float, x: float, y: float) -> None:
    resolution = at_scale(_Flat((1000, 1000)), scale)
    point = np.array([[x, y]])
    np.testing.assert_allclose(resolution.work_edges(resolution.full_edges(point)), point, rtol=1e-9, atol=1e-6)
    # A centre is half a pixel behind its pixel's edge, in either frame.
    np.testing.assert_allclose(resolution.full_centres(point) + 0.5, resolution.full_edges(point + 0.5), rtol=1e-9)


@given(factor=st.integers(1, 40), width=st.integers(1, 9000), up=st.booleans())
def test_a_level_of_a_whole_factor_is_known_for_one(factor: int, width: int, up: bool) -> None:
    small = max(-(-width // factor) if up else width // factor, 1)
    if small < 60 * factor:  # of a few pixels several factors could be meant
        return
    assert downsample_of((width, width), (small, small)) == factor


def test_pixels_of_about_the_models_size_are_taken_as_they_are(tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "spots.tif", spotted(), 1, 128, mpp=0.2456))
    resolution = resolve(slide, 0.25)
    assert (resolution.scale, resolution.work_mpp) == (1.0, pytest.approx(0.2456))
    assert resolve(slide, 0.25, mpp=0.5).scale == 0.5


@pytest.mark.parametrize("mpp", [None, 352.8])
def test_a_missing_or_absurd_pixel_size_is_refused_with_the_remedy(mpp: float | None, tmp_path: Path) -> None:
    slide = open_slide(write_pyramid(tmp_path / "spots.tif", spotted(), 1, 128, mpp=mpp))
    with pytest.raises(ImageError, match=r"spots\.tif: states no credible microns per pixel.*--mpp"):
        resolve(slide, 0.25)
    assert resolve(slide, 0.25, mpp=0.25).scale == 1


class _Flat(SlideReader):
    """Grey, with damage wherever a box meets one of these squares of 64 px."""

    def __init__(self, shape: tuple[int, int], damage: frozenset[tuple[int, int]] = frozenset()) -> None:
        super().__init__("flat", Path("flat"), Facts((Level(shape, 1.0),), mpp=0.25))
        self.damage = damage

    def _read(self, level: int, box: Box) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = box
        if any(x0 < x * 64 + 64 and x1 > x * 64 and y0 < y * 64 + 64 and y1 > y * 64 for x, y in self.damage):
            raise UnreadableRegion("bad block")
        return np.full((y1 - y0, x1 - x0, 3), 128, np.uint8)


def test_damage_is_white_and_told_and_the_rest_is_read() -> None:
    slide = _Flat((1000, 1400), frozenset({(10, 9)}))
    reading = read_work(slide, resolve(slide, 0.25), (100, 50, 1300, 950))
    white = (reading.pixels == 255).all(axis=2)
    assert reading.pixels[white].size + reading.pixels[~white].size == reading.pixels.size
    assert (reading.pixels[~white] == 128).all()
    assert white[9 * 64 - 50, 10 * 64 - 100]
    assert white.sum() <= 256 * 256
    assert all(reason == "bad block" for _, reason in reading.unreadable)
    x0, y0, x1, y1 = reading.unreadable[0][0]
    assert x0 <= 640 < x1
    assert y0 <= 576 < y1


def test_damage_of_a_coarser_level_is_told_in_px_of_the_full_resolution() -> None:
    slide = _Levels((Level((2000, 2800), 1.0), Level((1000, 1400), 2.0)))
    slide.damage = frozenset({(10, 9)})
    reading = read_work(slide, resolve(slide, 0.5, mpp=0.25), (100, 50, 1300, 950))
    ((x0, y0, x1, y1), _) = reading.unreadable[0]
    assert x0 <= 2 * 640 < 2 * 703 < x1
    assert y0 <= 2 * 576 < 2 * 639 < y1
    assert (reading.pixels == 255).all(axis=2).sum() == (x1 - x0) * (y1 - y0) / 4


def test_both_sides_of_a_seam_meet_the_same_damage() -> None:
    slide = _Flat((1000, 1400), frozenset({(10, 9)}))
    resolution = resolve(slide, 0.25)
    left = read_work(slide, resolution, (0, 0, 700, 1000)).unreadable
    right = read_work(slide, resolution, (500, 0, 1400, 1000)).unreadable
    assert {box[:2] for box, _ in left} & {box[:2] for box, _ in right}


class _Picture(SlideReader):
    """An image without a pyramid; remembers how many px each read had."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        super().__init__("picture", Path("picture"), Facts((Level(image.shape[:2], 1.0),), mpp=0.25))
        self.image = image
        self.read_px: list[int] = []

    def _read(self, level: int, box: Box) -> NDArray[np.uint8]:
        x0, y0, x1, y1 = box
        self.read_px.append((y1 - y0) * (x1 - x0))
        return self.image[y0:y1, x0:x1]


@pytest.mark.parametrize(("part", "most"), [(64_000_000, 1.7), (64_000, 2.7)])
def test_a_thumbnail_of_a_slide_without_a_pyramid_reads_little_around_its_parts(
    part: int, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tissue, "_STRIP", 20_000)  # a row of the picture: as of 100,000 px with the usual limit
    monkeypatch.setattr(tissue, "_PART", part, raising=False)
    slide = _Picture(np.tile(sample_mosaic(), (3, 2, 1))[:800, :1000])
    small = thumbnail_of(slide, 50)
    assert small.shape == (40, 50)
    assert sum(slide.read_px) < most * 800 * 1000
    assert max(slide.read_px) <= part
    whole = read_work(slide, at_scale(slide, small.scale), (0, 0, 50, 40)).pixels
    assert np.abs(small.pixels.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("reader", ["openslide", "tiff", "tiffslide"])
def test_a_level_with_another_scale_across_than_down_is_left_out_and_the_others_keep_their_pixels(
    reader: str, tmp_path: Path
) -> None:
    """A pixel of such a level would be taken for one of a place up to a third of the slide away."""
    full = spotted((600, 800))
    levels = [full, np.ascontiguousarray(full[::2, ::3]), halved(full), halved(halved(full))]
    path = tmp_path / "uneven.tif"
    with tifffile.TiffWriter(path) as writer:
        for at, level in enumerate(levels):
            tiled = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
            writer.write(level, subfiletype=int(at > 0), metadata=None, **tiled)
    slide = open_slide(path, [each for each in READERS if each.name == reader])
    assert [level.shape for level in slide.levels] == [(600, 800), (300, 400), (150, 200)]
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    for at, level in enumerate((levels[0], *levels[2:])):
        np.testing.assert_array_equal(slide.read(at, (3, 5, 140, 130)), level[5:130, 3:140])


class _Levels(_Flat):
    """A slide of which nothing is known but its levels."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        SlideReader.__init__(self, "levels", Path("levels"), Facts(levels))


@given(st.floats(100, 5000), st.floats(100, 5000), st.sampled_from([2, 3, 4, 8, 16, 32, 64]))
def test_levels_that_cut_or_round_what_does_not_fit_are_kept(height: float, width: float, factor: int) -> None:
    full = (int(height * factor), int(width * factor))
    for around in (lambda side: side // factor, lambda side: -(-side // factor), lambda side: round(side / factor)):
        shape = (around(full[0]), around(full[1]))
        levels = (Level(full, 1.0), Level(shape, downsample_of(full, shape)))
        assert _Levels(levels).levels == levels
