"""Real files of all kinds, and what must fail with one sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pnseg_runtime.cli.slide_inputs import slides_of
from pnseg_runtime.errors import ImageError, PnsegError
from pnseg_runtime.slide.outputs import stem_of
from pnseg_runtime.slide.plan import slide_hash
from pnseg_runtime.slide.readers import READERS, dicom, open_slide
from pnseg_runtime.slide.readers.base import UnreadableRegion
from pnseg_runtime.slide.readers.dicom import series_in, series_of
from pnseg_runtime.slide.readers.several import files_of
from pnseg_runtime.slide.tissue import Thumbnail, find_tissue, thumbnail_of
from tests.real_data import real
from tests.runtime.made import SAMPLES, sample
from tests.runtime.slide.made import sample_mosaic
from tests.runtime.slide.test_resolution import write_pyramid


@pytest.mark.parametrize(
    ("name", "reader", "shape", "mpp"),
    [
        ("CMU-1-Small-Region.svs", "openslide", (2967, 2220), 0.499),
        ("CMU-1-Small-Region_pyramid.tif", "openslide", (2967, 2220), 0.499),
        ("TCGA-CR-7395-01A-01-TS1.svs", "openslide", (3567, 4443), None),
        ("boxes.tiff", "openslide", (250, 300), None),
        ("small.svs", "openslide", (16, 16), 0.499),
        ("smalltif.tif", "tiff", (480, 640), None),
    ],
)
def test_real_slides_are_opened(name: str, reader: str, shape: tuple[int, int], mpp: float | None) -> None:
    slide = open_slide(real(f"wsi/{name}"))
    assert (slide.name, slide.shape, slide.facts.mpp) == (reader, shape, mpp)
    assert slide.read(0, (0, 0, 16, 16)).shape == (16, 16, 3)


def test_a_slide_that_cannot_be_opened_is_one_sentence() -> None:
    with pytest.raises(ImageError, match=r"unopenable\.tiff: cannot be opened as a slide .*52479"):
        open_slide(real("wsi/unopenable.tiff"))


def test_a_slide_that_cannot_be_read_is_one_sentence() -> None:
    slide = open_slide(real("wsi/unreadable.svs"))
    with pytest.raises(UnreadableRegion):
        slide.read(0, (0, 0, 16, 16))
    with pytest.raises(ImageError, match=r"unreadable\.svs: its pixels cannot be decoded"):
        thumbnail_of(slide)


def test_levels_of_a_real_pyramid_have_whole_factors() -> None:
    slide = open_slide(real("wsi/CMU-1-Small-Region_pyramid.tif"))
    assert [level.downsample for level in slide.levels] == [1, 2, 4]


@pytest.mark.parametrize("reader", ["openslide", "tiff", "tiffslide"])
def test_readers_agree_on_the_pixels_of_a_real_slide(reader: str) -> None:
    path = real("wsi/CMU-1-Small-Region.svs")
    slide = open_slide(path, [each for each in READERS if each.name == reader])
    with tifffile.TiffFile(path) as tif:
        whole = tif.series[0].asarray()
    box = (501, 803, 901, 1111)
    part = whole[box[1] : box[3], box[0] : box[2]].astype(int)
    assert slide.facts.mpp == 0.499
    assert np.abs(slide.read(0, box).astype(int) - part).mean() < 1


@pytest.mark.parametrize("rows", [1, 37, 1000])
def test_a_plain_tiff_in_strips_is_read_piece_by_piece(rows: int, tmp_path: Path) -> None:
    image = sample()
    tifffile.imwrite(tmp_path / "plain.tif", image, rowsperstrip=rows, compression="lzw", photometric="rgb")
    slide = open_slide(tmp_path / "plain.tif")
    assert slide.name == "tiff"
    np.testing.assert_array_equal(slide.read(0, (13, 29, 200, 170)), image[29:170, 13:200])


def test_a_tiled_ome_tiff_has_the_levels_and_the_pixel_size_that_it_states(tmp_path: Path) -> None:
    image, path = sample(), tmp_path / "slide.ome.tif"
    tiled = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(image, subifds=1, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **tiled)
        writer.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, **tiled)
    slide = open_slide(path)
    assert (slide.name, slide.facts.mpp) == ("tiff", 0.5)
    assert [level.downsample for level in slide.levels] == [1, 2]
    np.testing.assert_array_equal(slide.read(0, (3, 5, 100, 90)), image[5:90, 3:100])


def write_images(path: Path, *images: np.ndarray, ome: bool) -> Path:
    """Images side by side in a TIFF; an OME-TIFF states 0.5, 0.6 … µm of them."""
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for number, image in enumerate(images):
            mpp = {f"PhysicalSize{axis}": 0.5 + number / 10 for axis in "XY"}
            writer.write(np.ascontiguousarray(image), photometric="rgb", metadata=mpp if ome else None)
    return path


@pytest.mark.parametrize("ome", [True, False])
def test_of_several_images_in_a_tiff_the_largest_is_the_slide(
    ome: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tissue, label = sample_mosaic(), sample()[:100, :120]
    slide = open_slide(write_images(tmp_path / "a.tif", label, tissue, ome=ome))
    assert (slide.name, slide.facts.mpp) == ("tiff", None)
    assert slide.facts.hint == ("states 0.5 of its first image, and this is another" if ome else "")
    np.testing.assert_array_equal(slide.read(0, (3, 5, 500, 300)), tissue[5:300, 3:500])
    slide = open_slide(write_images(tmp_path / "b.tif", tissue, label, ome=ome))
    assert slide.facts.mpp == (0.5 if ome else None)
    np.testing.assert_array_equal(slide.read(0, (3, 5, 500, 300)), tissue[5:300, 3:500])
    open_slide(write_images(tmp_path / "c.tif", tissue, tissue[::2, ::2], ome=ome))
    assert caplog.messages == [], "labels and levels are no other images"


@pytest.mark.parametrize("ome", [True, False])
def test_another_image_in_a_tiff_that_may_be_meant_is_a_warning(
    ome: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = sample_mosaic()[:200, :300], sample_mosaic()
    path = write_images(tmp_path / "a.tif", first, second, ome=ome)
    slide = open_slide(path)
    np.testing.assert_array_equal(slide.read(0, (0, 0, 512, 384)), second)
    (told,) = caplog.messages
    assert told.startswith(f"{path}: holds several images, of which the largest is the slide (512×384 px)")
    assert "if the others are wanted (300×200 px), save them" in told


def test_an_ome_tiff_of_separate_planes_has_the_pixel_size_that_it_states(tmp_path: Path) -> None:
    planes = np.ascontiguousarray(np.moveaxis(sample(), -1, 0))
    size = {"axes": "CYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, tile=(64, 64), photometric="minisblack", metadata=size)
    slide = open_slide(tmp_path / "a.ome.tif")
    assert (slide.name, slide.facts.mpp) == ("tiffslide", 0.25)
    np.testing.assert_array_equal(slide.read(0, (3, 5, 100, 90)), sample()[5:90, 3:100])


def test_a_tiled_tiff_of_floats_is_read_by_the_reader_that_can_decode_it(tmp_path: Path) -> None:
    image = sample()
    unit = (image / 255).astype(np.float32)
    tifffile.imwrite(tmp_path / "floats.tif", unit, tile=(64, 64), photometric="rgb", metadata=None)
    slide = open_slide(tmp_path / "floats.tif")
    assert slide.name == "tiff"
    np.testing.assert_allclose(slide.read(0, (3, 5, 100, 90)).astype(int), image[5:90, 3:100], atol=1)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_images_are_read_by_the_same_door(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(sample()).save(tmp_path / f"image{suffix}")
    slide = open_slide(tmp_path / f"image{suffix}")
    np.testing.assert_array_equal(slide.read(0, (3, 5, 100, 90)), sample()[5:90, 3:100])


def test_an_image_too_large_to_be_read_whole_is_read_by_libvips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyvips")
    monkeypatch.setattr("pnseg_runtime.slide.readers.image.MAX_PIXELS", 1000)
    slide = open_slide(SAMPLES / "he_pink.png")
    assert slide.name == "vips"
    np.testing.assert_array_equal(slide.read(0, (3, 5, 100, 90)), sample()[5:90, 3:100])


@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_zarr_is_read_with_its_levels_and_pixel_size(version: int, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    image = sample()
    group = zarr.open_group(str(tmp_path / "slide.ome.zarr"), mode="w", zarr_format=version)
    for level in range(2):
        data = image[:: 2**level, :: 2**level].transpose(2, 0, 1)[:, None]
        group.create_array(str(level), data=data, chunks=(1, 1, 64, 64))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "zyx")]
    scales = [{"type": "scale", "scale": [1, 1, 0.5 * 2**level, 0.5 * 2**level]} for level in range(2)]
    sets = [{"path": str(level), "coordinateTransformations": [scales[level]]} for level in range(2)]
    described = [{"version": "0.4", "axes": axes, "datasets": sets}]
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": described}} if version == 3 else {"multiscales": described}
    )
    slide = open_slide(tmp_path / "slide.ome.zarr")
    assert (slide.name, slide.facts.mpp, slide.shape) == ("ome-zarr", 0.5, image.shape[:2])
    assert [level.downsample for level in slide.levels] == [1, 2]
    np.testing.assert_array_equal(slide.read(0, (3, 5, 100, 90)), image[5:90, 3:100])
    assert stem_of(tmp_path / "slide.ome.zarr") == "slide"


def write_zarr(group, image: np.ndarray, common: float = 1.0, unit: str = "micrometer") -> None:
    """An image of 0.5 µm as OME-Zarr 0.4; ``common`` of that is said of all levels together."""
    group.create_array("0", data=image.transpose(2, 0, 1), chunks=(3, 64, 64))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": unit} for n in "yx")]
    own, shared = ([{"type": "scale", "scale": [1, size, size]}] for size in (0.5 / common, common))
    described = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": own}]}
    group.attrs["multiscales"] = [described | {"coordinateTransformations": shared}]


def test_a_scale_of_all_levels_of_an_ome_zarr_is_multiplied_with_their_own(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    write_zarr(zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2), sample(), common=0.25)
    assert open_slide(tmp_path / "a.zarr").facts.mpp == 0.5


@pytest.mark.parametrize(
    ("unit", "mpp"), [("nanometer", None), ("centimeter", None), ("micrometer", 0.5), ("um", 0.5), ("second", None)]
)
def test_the_unit_of_an_ome_zarr_is_one_that_other_files_name_too(unit: str, mpp: float | None, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    write_zarr(group, sample(), unit=unit)
    facts = open_slide(tmp_path / "a.zarr").facts
    assert facts.mpp == mpp
    assert ("no unit of length" in facts.hint) == (unit == "second")


def test_of_several_images_in_an_ome_zarr_the_first_or_the_named_one_is_read(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3")
    root = zarr.open_group(str(tmp_path / "a.ome.zarr"), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    images = {"0": sample(), "1": sample("purple_crowded")}
    for name, image in images.items():
        write_zarr(root.create_group(name), image)
    for path, name in ((tmp_path / "a.ome.zarr", "0"), *((tmp_path / "a.ome.zarr" / name, name) for name in images)):
        slide = open_slide(path)
        assert (slide.name, slide.facts.mpp) == ("ome-zarr", 0.5)
        np.testing.assert_array_equal(slide.read(0, (3, 5, 100, 90)), images[name][5:90, 3:100])
        assert slides_of([path]) == [path]
    assert stem_of(tmp_path / "a.ome.zarr" / "1") == "a_1"


def test_the_hash_of_a_slide_is_that_of_every_byte(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", sample(), 2, 128)
    before = slide_hash(open_slide(path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert slide_hash(open_slide(path)) != before


def test_a_folder_of_results_with_the_slides_name_is_no_part_of_the_slide(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "case1.tif", sample(), 2, 128)
    before = open_slide(path)
    (tmp_path / "case1").mkdir()
    (tmp_path / "case1" / "case1.parquet").write_bytes(b"results")
    after = open_slide(path)
    assert before.name == after.name == "openslide"
    assert after.facts.files == (path,)
    assert slide_hash(after) == slide_hash(before)


def test_slides_of_several_files_are_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "slide" / "deep").mkdir(parents=True)
    beside = [tmp_path / "slide" / "Data0001.dat", tmp_path / "slide" / "deep" / "Index.dat"]
    named = [tmp_path / "slide(1,0).jpg", tmp_path / "slide.jpg", tmp_path / "slide_map.jpg"]
    for file in (*beside, *named, tmp_path / "other.jpg"):
        file.touch()
    mirax, index = tmp_path / "slide.mrxs", tmp_path / "slide.VMS"
    mirax.touch()
    lines = ["[Virtual Microscope Specimen]", "NoLayers=1", *(f"ImageFile={file.name}\r" for file in named), "Empty="]
    index.write_text("\n".join([*lines, "MacroImage=gone.jpg"]))
    assert files_of(mirax) == (mirax, *beside)
    assert files_of(index) == (index, *named)


SYNTAXES = {"explicit": "1.2.840.10008.1.2.1", "implicit": "1.2.840.10008.1.2", "jpeg": "1.2.840.10008.1.2.4.50"}


def element(group: int, number: int, kind: bytes, value: bytes, typed: bool = True, length: int | None = None) -> bytes:
    """An element of DICOM, little endian; ``length`` is what it says of itself, if that is not true."""
    value += bytes(len(value) % 2)
    said = len(value) if length is None else length
    if not typed:
        return struct.pack("<HHL", group, number, said) + value
    if kind in (b"SQ", b"UN", b"OB"):
        return struct.pack("<HH2sHL", group, number, kind, 0, said) + value
    return struct.pack("<HH2sH", group, number, kind, said) + value


def dicom_header(series: str, syntax: str = "explicit", open_ended: bool = False) -> bytes:
    """A DICOM file as far as its series, after a sequence that names another one."""
    typed, unknown = syntax != "implicit", 0xFFFFFFFF

    def piece(group: int, number: int, value: bytes, kind: bytes = b"UI", typed: bool = typed) -> bytes:
        if not open_ended or kind not in (b"SQ", b""):
            return element(group, number, kind, value, typed)
        end = 0xE00D if (group, number) == (0xFFFE, 0xE000) else 0xE0DD
        return element(group, number, kind, value, typed, unknown) + element(0xFFFE, end, b"", b"", False)

    item = piece(0xFFFE, 0xE000, piece(0x0020, 0x000E, b"9.9.9"), b"", typed=False)
    body = piece(0x0008, 0x0018, b"1.2.3.4") + piece(0x0008, 0x1115, item, b"SQ") + piece(0x0020, 0x000D, b"5.5")
    meta = element(0x0002, 0x0001, b"OB", b"\0\1") + element(0x0002, 0x0010, b"UI", SYNTAXES[syntax].encode())
    return bytes(128) + b"DICM" + meta + body + piece(0x0020, 0x000E, series.encode())


@pytest.mark.parametrize("open_ended", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_series_of_a_dicom_file_is_that_of_its_header_and_of_no_sequence_in_it(
    syntax: str, open_ended: bool
) -> None:
    header = dicom_header("1.2.34", syntax, open_ended)
    assert series_in(header + bytes(1000)) == "1.2.34"
    assert series_in(header.replace(b"1.2.34", b"9.9.99")) == "9.9.99"
    assert [series_in(header[:end]) for end in range(132, len(header) - 14)] == [None] * (len(header) - 146)


def test_a_dicom_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[bytes] = []
    monkeypatch.setattr(dicom, "series_in", lambda header: reads.append(header) or series_in(header))
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom_header("1.2") + bytes(1 << 21))
    assert [series_of(path) for _ in range(3)] == ["1.2"] * 3
    assert [len(header) for header in reads] == [132 + dicom._HEADER]
    path.write_bytes(dicom_header("1.3.4"))
    assert series_of(path) == "1.3.4"


def test_the_files_of_a_dicom_series_are_one_slide_and_all_of_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openslide.OpenSlide", lambda path: pytest.fail(f"{path} was opened to be listed"))
    for name, series in (("a1", "1.2"), ("a2", "1.2"), ("b1", "1.3"), ("b2", "1.3")):
        (tmp_path / f"{name}.dcm").write_bytes(dicom_header(series))
    (tmp_path / "c.dcm").write_text("no DICOM")
    (tmp_path / "notes.txt").touch()
    a1, a2, b1, c = (tmp_path / f"{name}.dcm" for name in ("a1", "a2", "b1", "c"))
    assert slides_of([tmp_path]) == [a1, b1, c]
    assert slides_of([a2, a1]) == [a2]
    assert files_of(a1) == files_of(a2) == (a1, a2)


def test_pictures_beside_a_slide_of_their_name_are_left_out_unless_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("case1.svs", "case1.jpg", "case2.ome.tif", "case2.PNG", "case3.png", "case4.jpg", "case4.svs.txt"):
        (tmp_path / name).touch()
    slides = [tmp_path / name for name in ("case1.svs", "case2.ome.tif", "case3.png", "case4.jpg")]
    assert slides_of([tmp_path]) == slides
    assert "are left out (case1.jpg, case2.PNG)" in capsys.readouterr().err
    assert slides_of([tmp_path / "case1.jpg"]) == [tmp_path / "case1.jpg"]
    refused = slides_of([tmp_path / "case1.svs", tmp_path / "case1.jpg"])[1]
    assert "would be named as those of" in str(refused)


def test_pictures_that_an_index_names_are_no_slides_of_their_own(tmp_path: Path) -> None:
    named = ("a.jpg", "a(1,0).jpg", "a_macro.jpg", "a_map2.jpg")
    for name in (*named, "other.jpg"):
        (tmp_path / name).touch()
    lines = "".join(f"ImageFile={name}\n" for name in named)
    (tmp_path / "a.vms").write_text(f"[Virtual Microscope Specimen]\n{lines}")
    assert slides_of([tmp_path]) == [tmp_path / "a.vms", tmp_path / "other.jpg"]


@pytest.mark.parametrize("name", ["gone.svs", "folder", "text.svs", "empty.tif"])
def test_what_is_no_slide_is_one_sentence_that_names_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.svs").write_text("this is no slide")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(PnsegError, match=name):
        open_slide(tmp_path / name)


def test_tissue_of_a_real_slide_is_found_and_its_glass_is_not() -> None:
    slide = open_slide(real("wsi/CMU-1-Small-Region.svs"))
    thumbnail = thumbnail_of(slide)
    tissue = find_tissue(thumbnail, 0.499)
    height, width = tissue.shape
    assert 0.3 < tissue.mean() < 0.75
    assert tissue[round(0.6 * height), round(0.5 * width)]  # in the middle of the tissue
    assert not tissue[round(0.7 * height), round(0.05 * width)]
    assert not tissue[round(0.3 * height), round(0.97 * width)]


@pytest.mark.parametrize("name", ["he_pink", "purple_sparse", "white_scattered"])
def test_a_tile_full_of_tissue_is_looked_at_whole(name: str) -> None:
    slide = open_slide(SAMPLES / f"{name}.png")
    assert find_tissue(thumbnail_of(slide), 0.25).mean() > 0.9


def glass() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(240 + rng.normal(0, 1.5, (600, 800, 1)) + np.array([0, -3, 2]), 0, 255).astype(np.uint8)


def test_empty_glass_holds_no_tissue(tmp_path: Path) -> None:
    Image.fromarray(glass()).save(tmp_path / "glass.png")
    assert not find_tissue(thumbnail_of(open_slide(tmp_path / "glass.png")), 0.5).any()


def test_a_pale_piece_of_less_than_a_hundredth_of_a_slide_is_tissue() -> None:
    pixels = glass()
    pixels[300:350, 400:460] -= np.array([4, 18, 6], np.uint8)
    tissue = find_tissue(Thumbnail(pixels, 1.0), 2.0)
    assert tissue[300:350, 400:460].all()
    assert tissue.mean() < 0.03


def test_tissue_of_a_grey_image_is_what_is_dark_and_what_little_has_colour() -> None:
    pixels = np.repeat(glass()[..., :1], 3, axis=2)
    pixels[100:300, 100:300] -= 90
    pixels[300:350, 400:460] -= np.array([4, 18, 6], np.uint8)
    tissue = find_tissue(Thumbnail(pixels, 1.0), 2.0)
    assert tissue[100:300, 100:300].all()
    assert tissue[300:350, 400:460].all()
    assert not tissue[400:].any()
