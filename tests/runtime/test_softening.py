"""What the networks see of an image: softer colour, and softer still for the prompter where the image was enlarged."""

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from scipy.ndimage import gaussian_filter

from pnseg_runtime import load
from pnseg_runtime.cli import cli
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.softening import Blur, Blurs, see, soften
from tests.fakes import FakeNetworks, fake_bundle
from tests.runtime.made import sample

COLOUR = Blur(colour=2.0)


def coarse_in_colour(rgb):
    """An image as a JPEG file has it that keeps colour at half the resolution, and losslessly."""
    ycc = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    height, width = rgb.shape[:2]
    half = cv2.resize(ycc[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    ycc[..., 1:] = cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB)


def test_brightness_stays_where_colour_is_softened():
    rgb = sample("he_pink")
    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(int) for image in (rgb, soften(rgb, COLOUR)))
    assert np.abs(after - before)[..., 0].mean() < 0.5  # RGB ends at 0 and 255
    for channel in (1, 2):
        assert np.diff(after[..., channel], 2).std() < 0.6 * np.diff(before[..., channel], 2).std()


def test_images_that_differ_in_the_detail_of_colour_alone_are_nearly_the_same_when_it_is_softened():
    rgb = sample("he_pink")
    differences = [
        np.abs(soften(rgb, Blur(colour=blur)).astype(int) - soften(coarse_in_colour(rgb), Blur(colour=blur))).mean()
        for blur in (0.0, 2.0, 4.0)
    ]
    assert differences[1] < differences[0] / 3
    assert differences[2] < differences[1]


@pytest.mark.parametrize("blur", [Blur(colour=0.5), Blur(2.0, 2.0), Blur(3.7, 1.0)], ids=str)
def test_what_is_softened_does_not_depend_on_where_an_image_is_cut(blur):
    rgb, reach = sample("purple_crowded"), blur.reach
    whole = soften(rgb, blur)
    for x, y, side in ((20, 30, 90), (41, 52, 77), (100, 60, 61)):
        part = soften(np.ascontiguousarray(rgb[y : y + side, x : x + side]), blur)
        inner = np.s_[reach : side - reach, reach : side - reach]
        np.testing.assert_array_equal(part[inner], whole[y : y + side, x : x + side][inner])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
def test_images_smaller_than_the_blur_are_softened_too(shape):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert soften(rgb, COLOUR).shape == rgb.shape


def test_a_blur_reaches_three_deviations_far():
    reaches = [blur.reach for blur in (Blur(), Blur(0.5), Blur(colour=2.0), Blur(1.0, 3.7), Blur(3.7, 1.0))]
    assert reaches == [0, 2, 6, 12, 12]
    assert Blurs(Blur(1.0), COLOUR).reach == Blurs(COLOUR, Blur(1.0)).reach == 6


def test_no_blur_leaves_the_image_as_it_is():
    rgb = sample("he_pink")
    assert soften(rgb, Blur()) is rgb


def test_the_networks_see_what_is_softened():
    rgb = sample("he_pink")
    plain, soft = load("nano", threads=1, colour_blur=0.0), load("nano", threads=1, colour_blur=3.0)
    expected = plain.predict(soften(rgb, Blur(colour=3.0))).instance_map()
    np.testing.assert_array_equal(soft.predict(rgb).instance_map(), expected)
    assert not np.array_equal(plain.predict(rgb).instance_map(), expected)


def test_brightness_is_blurred_by_a_gaussian_and_colour_by_its_own():
    rgb = sample("he_pink")
    before, after = (
        cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(float) for image in (rgb, soften(rgb, Blur(2.0, 6.0)))
    )
    for channel, deviation in enumerate((2.0, 6.0, 6.0)):
        expected = gaussian_filter(before[..., channel], deviation, mode="mirror", truncate=3)
        assert np.abs(after[..., channel] - expected).mean() < 0.6  # bytes, to RGB and back


def test_networks_that_see_alike_share_one_array():
    rgb = sample("he_pink")
    alike = see(rgb, Blurs(COLOUR, COLOUR))
    assert alike.prompter is alike.segmentor
    part = alike.cut(3, 5, 60, 70)
    assert part.prompter is part.segmentor
    np.testing.assert_array_equal(part.prompter, soften(rgb, COLOUR)[5:70, 3:60])


def test_networks_that_see_differently_each_see_their_own():
    rgb, softer = sample("he_pink"), Blur(2.0, 8.0)
    seen = see(rgb, Blurs(prompter=softer, segmentor=COLOUR)).cut(3, 5, 60, 70)
    np.testing.assert_array_equal(seen.prompter, soften(rgb, softer)[5:70, 3:60])
    np.testing.assert_array_equal(seen.segmentor, soften(rgb, COLOUR)[5:70, 3:60])


class Watched(FakeNetworks):
    """Remembers the first picture that each network was shown; the prompter puts a point into the middle."""

    def __init__(self, bundle):
        super().__init__(bundle)
        self.shown = {}

    def prompter(self, inputs):
        self.shown["prompter"] = self._pixels(inputs["image"])[0].transpose(1, 2, 0)
        height, width = inputs["image"].shape[2:]
        black = -np.array(self.normalisation.mean, np.float32) / np.array(self.normalisation.std, np.float32)
        outputs = super().prompter({"image": np.broadcast_to(black[:, None, None], inputs["image"].shape)})
        outputs["points"][:, 0] = width / 2, height / 2
        outputs["class_logits"][:, 0, 0] = 40.0
        return outputs

    def encoder(self, inputs):
        self.shown["segmentor"] = self._pixels(inputs["image"])[0].transpose(1, 2, 0)
        return super().encoder(inputs)


def shown(rgb, mpp, **more):
    bundle = fake_bundle()
    manifest = bundle.manifest.model_copy(update={"colour_blur": 1.0, "enlarged_blur": (2.0, 6.0)})
    networks = Watched(bundle)
    segmenter = Segmenter(type(bundle)(bundle.folder, manifest), Options(), sessions=networks.sessions())
    segmenter.predict(rgb, mpp=mpp, **more)
    return networks.shown


def enlarged(rgb, times):
    height, width = rgb.shape[:2]
    return np.asarray(Image.fromarray(rgb).resize((times * width, times * height), Image.Resampling.BICUBIC))


def test_of_an_enlarged_image_the_prompter_alone_sees_a_softer_one():
    rgb = sample("he_pink")[:128, :128]
    seen = shown(rgb, 0.5)
    np.testing.assert_array_equal(seen["prompter"], soften(enlarged(rgb, 2), Blur(2.0, 7.0)))
    np.testing.assert_array_equal(seen["segmentor"], soften(enlarged(rgb, 2), Blur(colour=1.0)))


@pytest.mark.parametrize(("mpp", "side"), [(None, 256), (0.25, 256), (0.2, 320), (0.125, 512)])
def test_what_is_not_enlarged_is_seen_alike_by_both(mpp, side):
    rgb = np.asarray(Image.fromarray(sample("he_pink")[:256, :256]).resize((side, side), Image.Resampling.BICUBIC))
    seen = shown(rgb, mpp)
    assert seen["prompter"].shape == (256, 256, 3)
    np.testing.assert_array_equal(seen["prompter"], seen["segmentor"])


def test_what_is_enlarged_on_a_guess_is_seen_as_sharp_as_it_is():
    rgb = sample("he_pink")[:128, :128]
    seen = shown(rgb, 0.5, guessed=True)
    np.testing.assert_array_equal(seen["prompter"], soften(enlarged(rgb, 2), Blur(colour=1.0)))


def test_the_verb_softens_by_what_a_file_states_and_not_by_its_own_guess(tmp_path, monkeypatch):
    asked = []

    class Model(type(load("nano", threads=1))):
        def predict(self, rgb, mpp=None, **more):
            asked.append((mpp, more["guessed"]))
            return super().predict(rgb, mpp, **more)

    nano = load("nano", threads=1)
    nano.__class__ = Model
    monkeypatch.setattr("pnseg_runtime.cli.predict.load", lambda *_, **__: nano)
    small = Image.fromarray(sample("purple_crowded")).resize((128, 128), Image.Resampling.LANCZOS)
    small.save(tmp_path / "tile.png")
    for number, arguments in enumerate(([], ["--mpp", "0.5"])):
        out = ["--out", str(tmp_path / str(number))]
        CliRunner().invoke(cli, ["predict", str(tmp_path / "tile.png"), *arguments, *out], catch_exceptions=False)
    assert asked == [(None, True), (0.375, True), (0.5, False)]


def test_two_files_of_a_coarse_scan_look_more_alike_to_the_prompter():
    def jpeg(rgb, quality):
        _, coded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])

    nano = load("nano", threads=1)
    blurs = Blurs.of(nano.settings, 2.0)
    for name in ("he_pink", "purple_crowded", "white_scattered", "white_clustered"):
        first = jpeg(cv2.resize(sample(name), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 30)
        files = [cv2.resize(file, None, fx=2, fy=2) for file in (first, jpeg(first, 70))]
        seen = [see(file, blurs) for file in files]
        sharp, soft = (
            np.percentile(np.abs(np.subtract(*(view.astype(int) for view in pair))), 99.9)
            for pair in ([view.segmentor for view in seen], [view.prompter for view in seen])
        )
        assert soft < 0.7 * sharp
