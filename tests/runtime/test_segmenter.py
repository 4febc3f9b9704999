"""A segmenter that serves: several threads, jobs in the background, steady memory."""

import asyncio
import gc
import os
import resource
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import BackendError, ImageError, PredictionCancelledError
from pnseg_runtime.options import Options
from pnseg_runtime.segmenter import Segmenter
from tests.fakes import FakeNetworks, fake_bundle, marked_image
from tests.runtime.made import SAMPLES, sample

ROOT = Path(__file__).parents[2]
PATIENCE = 60


@pytest.fixture(scope="module")
def nano():
    with Segmenter(Bundle.open("nano"), Options(threads=1)) as segmenter:
        yield segmenter


def same(first, second):
    assert first.boxes.tolist() == second.boxes.tolist()
    np.testing.assert_array_equal(first.ious, second.ious)
    np.testing.assert_array_equal(first.instance_map(), second.instance_map())


def crops(count, side=96):
    """Different crops of the sample images."""
    names = sorted(path.stem for path in SAMPLES.glob("*.png"))
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = sample(names[index % len(names)])
        y, x = (int(rng.integers(0, length - side + 1)) for length in pixels.shape[:2])
        yield np.ascontiguousarray(pixels[y : y + side, x : x + side])


def test_threads_that_share_a_segmenter_get_what_one_alone_gets(nano):
    images = list(crops(12, side=128))
    alone = [nano.predict(image) for image in images]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(nano.predict, images))
    assert sum(len(found) for found in alone) > 20
    for first, second in zip(alone, together, strict=True):
        same(first, second)


def test_many_images_come_back_in_order(nano):
    images = list(crops(8))
    for image, found in zip(images, nano.predict_many(iter(images), mpp=0.25), strict=True):
        same(found, nano.predict(image))
        assert found.mpp == 0.25


def test_a_submitted_image_can_be_waited_for_and_awaited(nano):
    (image,) = crops(1)
    expected = nano.predict(image)
    same(nano.submit(image).result(PATIENCE), expected)

    async def main():
        return await asyncio.gather(*(nano.submit(image) for _ in range(3)))

    for found in asyncio.run(main()):
        same(found, expected)


def test_what_is_no_image_is_refused_when_it_is_submitted(nano):
    with pytest.raises(ImageError):
        nano.submit(np.zeros((4, 4), np.uint8))


class Held:
    """A segmenter whose prompter waits until it is let go."""

    def __init__(self, **options):
        bundle = fake_bundle()
        self.networks, self.started, self.let_go = FakeNetworks(bundle), threading.Event(), threading.Event()
        sessions = self.networks.sessions()
        held = type(sessions)(self.prompter, sessions.encoder, sessions.decoder)
        self.segmenter = Segmenter(bundle, Options(**options), sessions=held)

    def prompter(self, inputs):
        self.started.set()
        assert self.let_go.wait(PATIENCE)
        return self.networks.prompter(inputs)


IMAGE = marked_image((64, 64), [(20, 20, 8, 0, 200)])


def test_a_prediction_that_is_called_off_ends_before_its_next_step():
    held = Held()
    job = held.segmenter.submit(IMAGE)
    assert held.started.wait(PATIENCE)
    assert job.cancel()
    held.let_go.set()
    with pytest.raises(PredictionCancelledError):
        job.result(PATIENCE)
    assert held.networks.window_counts == []
    assert len(held.segmenter.submit(IMAGE).result(PATIENCE)) == 1
    held.segmenter.close()


def test_what_is_submitted_while_it_closes_is_refused():
    held = Held(workers=1)
    running = held.segmenter.submit(IMAGE)
    assert held.started.wait(PATIENCE)
    closing = threading.Thread(target=held.segmenter.close)

    def submit_while_it_closes():  # it waits for what runs, so there is all the time to be noticed
        while closing.is_alive():
            held.segmenter.submit(IMAGE).cancel()

    closing.start()
    try:
        with pytest.raises(BackendError, match="closed"):
            submit_while_it_closes()
    finally:
        held.let_go.set()
        closing.join(PATIENCE)
    assert len(running.result(PATIENCE)) == 1


def test_closing_finishes_what_runs_and_refuses_what_comes():
    held = Held(workers=1)
    running = held.segmenter.submit(IMAGE)
    assert held.started.wait(PATIENCE)
    threading.Timer(0.05, held.let_go.set).start()
    held.segmenter.close()
    assert len(running.result(PATIENCE)) == 1
    for call in (held.segmenter.predict, held.segmenter.submit):
        with pytest.raises(BackendError, match="closed"):
            call(IMAGE)
    with pytest.raises(BackendError, match="closed"):
        held.segmenter.warm_up()


def test_a_forked_process_is_told_to_open_a_segmenter_of_its_own(nano):
    said, tile = [], next(crops(1))
    for use in (lambda: nano.predict(tile), lambda: nano.submit(tile), lambda: next(nano.predict_many([tile]))):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                use()
                os.write(writing, b"predicted")
            except BackendError as error:
                os.write(writing, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        said.append(os.read(reading, 200).decode())
        os.close(reading)
        os.close(writing)
    assert said == ["This segmenter was opened before its process forked; open one in each process."] * 3


def test_warming_up_runs_every_network():
    bundle = fake_bundle()
    networks = FakeNetworks(bundle)
    Segmenter(bundle, sessions=networks.sessions()).warm_up((300, 500))
    assert networks.prompter_shapes == [(1, 3, 320, 512)]
    assert networks.window_counts == [6]
    assert networks.prompt_counts == [(6, 2), (6, 1)] or networks.prompt_counts == [(6, 1), (6, 2)]


def test_a_tile_allocates_nothing_large_in_steady_state(nano):
    (image,) = crops(1, side=256)
    for _ in range(3):
        nano.predict(image)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        nano.predict(image)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # One window's input alone has 0.8 MB, a prompt's logits 64 kB.
    assert peak < 6e6


def test_logging_is_all_that_a_segmenter_says(capfd):
    with Segmenter(Bundle.open("nano"), Options(threads=1), "auto") as segmenter:
        segmenter.predict(next(crops(1)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_500_images_in_eight_threads_are_those_of_one_and_memory_does_not_grow(nano):
    images = list(crops(100))
    alone = [nano.predict(image) for image in images]
    reached = []

    def predict(index):
        found = nano.predict(images[index % 100])
        reached.append(resident())
        return found

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(predict, range(500)))
    for index, found in enumerate(together):
        same(found, alone[index % 100])
    # What eight threads need is there after the first images.
    assert max(reached[-100:]) - max(reached[100:200]) < 30e6


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
import pnseg_runtime
from pnseg_runtime.images import read_image
pixels = read_image(sys.argv[1]).pixels
pixels = np.tile(pixels, (4, 4, 1))[:1000, :1000]
nuclei = pnseg_runtime.load("nano", threads=2).predict(pixels)
nuclei.polygons()
# Not ru_maxrss: a child begins with its parent's.
print(len(nuclei), 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.slow
def test_nano_needs_less_than_600_mb_for_1000_by_1000_px():
    command = [sys.executable, "-c", PEAK, str(SAMPLES / "purple_crowded.png")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    nuclei, peak = map(int, finished.stdout.split())
    assert nuclei > 300
    assert peak < 600e6
