import numpy as np
import pytest

from benchmarks.latency import manifest_of, ratios, same_pixels, sample_image, sample_tile
from benchmarks.networks import random_pair
from benchmarks.plain import PlainSegmenter, eager_networks
from benchmarks.protocol import Latency
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from pnseg_train.inference import torch_sessions


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 420)])
def test_the_plain_pipeline_gives_the_runtimes_instance_map(height, width, tmp_path):
    prompter, segmentor = random_pair("nano")
    manifest = manifest_of("nano")
    prompting = manifest.prompting.model_copy(update={"sensitivity": 0.3, "pad_multiple": 32, "nms_radius": 24})
    manifest = manifest.model_copy(update={"prompting": prompting})
    image = sample_image(500)[:height, :width]
    plain = PlainSegmenter(eager_networks(prompter, segmentor), manifest)(image)
    runtime = Segmenter(
        Bundle(tmp_path, manifest), Options(assignment="all"), sessions=torch_sessions(prompter, segmentor)
    )
    found = runtime.predict(image).instance_map()
    assert len(np.unique(plain)) > 5
    assert same_pixels(plain, found) > 0.999


def test_instance_maps_agree_whatever_their_numbers():
    first = np.array([[0, 1, 1], [2, 2, 0]], np.int32)
    assert same_pixels(first, first) == 1
    assert same_pixels(first, np.array([[0, 7, 7], [3, 3, 0]], np.int32)) == 1
    assert same_pixels(first, np.array([[0, 7, 7], [3, 3, 3]], np.int32)) == pytest.approx(5 / 6)


def test_ratios_are_those_of_the_rounds():
    found = ratios(Latency.of([2.0, 4.0, 6.0]), Latency.of([1.0, 1.0, 2.0]))
    assert found["p50"] == 3


def test_the_images_are_real_tissue_of_the_wanted_size():
    assert sample_tile().shape == (256, 256, 3)
    assert sample_image().shape == (1000, 1000, 3)
    assert sample_image().std() > 20
