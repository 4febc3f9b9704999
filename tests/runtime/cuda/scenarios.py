"""What the tests of the host code do on the stand-in GPU, each in a process of its own.

``python -m tests.runtime.cuda.scenarios NAME [MODULE OLD NEW]``: with a module and two texts, one text of its source is
replaced by the other first, so that a fault can be planted.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import fake_bundle, marked_image


def same(found: Any, expected: Any) -> bool:
    """Whether two results agree in every bit."""
    names = ("points", "classes", "scores", "ious", "boxes")
    if found.shape != expected.shape or len(found) != len(expected):
        return False
    pairs = [(getattr(found, name), getattr(expected, name)) for name in names]
    pairs += list(zip(found.masks, expected.masks, strict=True))
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def discs(shape: tuple[int, int], seed: int, gap: int = 34) -> Any:
    """An image with a marked disc about every ``gap`` px, many of which overlap or crowd."""
    rng = np.random.default_rng(seed)
    marks = {
        (
            min(int(x + rng.integers(-6, 7)) % shape[1], shape[1] - 1),
            min(int(y + rng.integers(-6, 7)) % shape[0], shape[0] - 1),
        )
        for y in range(5, shape[0], gap)
        for x in range(5, shape[1], gap)
    }
    return marked_image(
        shape,
        [
            (x, y, int(rng.integers(5, 20)), int(rng.integers(2)), int(rng.integers(4)) * 60 + 60)
            for x, y in sorted(marks)
        ],
    )


def driver() -> Any:
    library = ctypes.CDLL("libcuda.so.1")
    library.stand_in_count.restype = ctypes.c_long
    library.stand_in_copies.restype = ctypes.c_char_p
    library.stand_in_complaint.restype = ctypes.c_char_p
    library.stand_in_allocations.restype = ctypes.c_long
    return library


class Pair:
    """The same networks on the stand-in GPU and in the runtime's own pipeline."""

    def __init__(self, options: Any = None, use_graphs: bool = True, real: bool = False, **manifest: Any) -> None:
        from pnseg_runtime.bundle import Bundle
        from pnseg_runtime.cuda.segmenter import DeviceSegmenter
        from pnseg_runtime.segmenter import Segmenter
        from tests.runtime.cuda.host_engines import fake_engines, onnx_engines

        bundle = Bundle.open("nano") if real else fake_bundle(**manifest)
        if real:
            self.engines, sessions = onnx_engines(bundle)
        else:
            self.engines, networks = fake_engines(bundle)
            sessions = networks.sessions()
        self.device = DeviceSegmenter(bundle, options, engines=self.engines, use_graphs=use_graphs)
        self.cpu = Segmenter(bundle, options, sessions=sessions)

    def agree(self, image: Any, mpp: float | None = None) -> int:
        """How many nuclei both find, which must be the same."""
        return self.check(self.device.predict(image, mpp), image, mpp)

    def check(self, found: Any, image: Any, mpp: float | None = None) -> int:
        for engine in (self.engines.prompter, self.engines.encoder, self.engines.decoder):
            assert not engine.failures, engine.failures[0]
        expected = self.cpu.predict(image, mpp)
        assert same(found, expected), f"{len(found)} nuclei on the GPU, {len(expected)} on the CPU, or others"
        return len(found)


def _every_option() -> list[tuple[Any, dict[str, Any], tuple[int, int]]]:
    from pnseg_runtime.options import Options

    tidy = {"masking": {"tidy": True, "nms_iou": 0.3}}
    return [
        (Options(), {}, (256, 256)),
        (Options(negatives=4, window_batch=2, prompt_batch=20), {}, (300, 500)),
        (Options(assignment="all", negatives=2), tidy, (448, 300)),
        (Options(negatives=0, nms_radius=30.0, window_batch=3), tidy, (500, 270)),
        (Options(macro_tile=320, macro_margin=32, region_filter=False), {}, (400, 700)),
        (Options(score_threshold=0.999, iou_threshold=0.5, nms_iou=0.0), {}, (260, 260)),
        (Options(nms_overlap=0.2, nms_radius=4.0), tidy, (280, 300)),
        (Options(nms_radius=0.0), {"masking": {"window": 128, "overlap": 32}}, (200, 300)),
        (Options(), {}, (1, 1)),
        (Options(), {}, (33, 90)),
    ]


def options() -> dict[str, Any]:
    """Every option, on images of several sizes, in several orders of the streams."""
    library, found = driver(), []
    for number, (choice, manifest, shape) in enumerate(_every_option()):
        pair = Pair(choice, use_graphs=number % 3 != 2, **manifest)
        for seed in range(3):
            library.stand_in_order(1, 10 * number + seed + 1)
            found.append(pair.agree(discs(shape, seed)))
        pair.device.close()
    return {"nuclei": found, "graphs": library.stand_in_count(b"graph")}


def real() -> dict[str, Any]:
    """The shipped model on sample images, and on one that takes several windows."""
    from tests.runtime.made import sample

    library, pair = driver(), Pair(real=True)
    wide = np.concatenate([sample("he_pink"), sample("white_clustered")], axis=1)
    names = ("he_pink", "purple_crowded", "white_scattered")
    found = []
    for seed, image in enumerate([*(sample(name) for name in names), wide[:, 100:420], sample("he_pink")[:200, :190]]):
        library.stand_in_order(1, seed + 1)
        found.append(pair.agree(image))
    return {"nuclei": found, "graphs": library.stand_in_count(b"graph")}


def enlarged() -> dict[str, Any]:
    """Images of a coarser resolution, of which the two networks see two pictures, among others that both see alike."""
    from tests.runtime.made import sample

    library, pair = driver(), Pair(real=True)
    images = [np.ascontiguousarray(sample(name)[::2, ::2]) for name in ("he_pink", "purple_crowded", "white_clustered")]
    found = []
    for seed in range(3):
        library.stand_in_order(1, seed + 1)
        found += [pair.agree(images[seed], 0.5), pair.agree(images[seed])]
        for image, nuclei in zip(images, pair.device.predict_many(images, 0.5), strict=True):
            pair.check(nuclei, image, 0.5)
    return {"nuclei": found}


def warm_up() -> dict[str, Any]:
    """All networks run, although a black image has no nucleus, and images come out as without it."""
    pair, image = Pair(), discs((300, 280), 1)
    pair.device.warm_up((300, 280))
    ran = [len(engine.batches) for engine in (pair.engines.prompter, pair.engines.encoder, pair.engines.decoder)]
    return {"ran": ran, "black": len(pair.cpu.predict(np.zeros_like(image))), "nuclei": pair.agree(image)}


def orders() -> dict[str, Any]:
    """Images of two sizes in turn, in many orders of the streams: where a wait is missing, some order shows it."""
    library, pair = driver(), Pair()
    images = [discs((300, 280), 1), discs((256, 330), 2)]
    library.stand_in_order(0, 0)
    found = [pair.agree(image) for image in images]
    for seed in range(1, 13):
        library.stand_in_order(1, seed)
        pair.agree(images[seed % 2])
        for image, nuclei in zip(
            [images[1], images[0], images[1]], pair.device.predict_many([images[1], images[0], images[1]]), strict=True
        ):
            pair.check(nuclei, image)
    return {"nuclei": found}


def refused() -> dict[str, Any]:
    """An image that is none comes after one that is: the nuclei of the first are there before the complaint."""
    from pnseg_runtime.errors import ImageError

    pair, image = Pair(), discs((300, 280), 1)
    results = pair.device.predict_many([image, image[:0], image])
    before = pair.check(next(results), image)
    try:
        next(results)
    except ImageError as error:
        return {"before": before, "said": str(error), "after": pair.agree(image)}
    return {}


def graphs() -> dict[str, Any]:
    """What graphs may not take for granted: the image's place, that of memory that grows, how much there is."""
    from pnseg_runtime.options import Options

    library = driver()
    library.stand_in_order(1, 5)
    pair, images = Pair(), [discs((256, 256), 1), discs((256, 256), 2)] * 4
    results = pair.device.predict_many(images)
    found = [pair.check(nuclei, image) for image, nuclei in zip(images, results, strict=True)]
    # The same windows and batches in a larger image, for which most memory grows.
    small = discs((256, 256), 3)
    small[100:] = 0
    tall = np.zeros((500, 256, 3), np.uint8)
    tall[:100] = small[:100]
    pair = Pair()
    found += [pair.agree(image) for image in (small, small, small, tall, small)]
    # The same points with masks that need a little more room each time.
    pair = Pair(Options(negatives=0))
    pair.device.words_per_point = 1
    places = [(x, y) for y in range(20, 256, 50) for x in range(20, 256, 50)]
    for radius in (8, 9, 10):
        grown = marked_image((256, 256), [(x, y, radius, 0, 200) for x, y in places])
        found += [pair.agree(grown) for _ in range(3)]
    assert library.stand_in_count(b"graph"), "nothing was captured"
    return {"nuclei": found, "graphs": library.stand_in_count(b"graph")}


def threads() -> dict[str, Any]:
    """Several threads at once, each with its own images."""
    library, pair = driver(), Pair()
    images = [discs((200 + 30 * i, 300 - 20 * i), i) for i in range(6)]
    library.stand_in_order(1, 3)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(pair.device.predict, images * 3))
    return {"nuclei": [pair.check(nuclei, image) for nuclei, image in zip(results, images * 3, strict=True)]}


def room() -> dict[str, Any]:
    """Masks that need far more room than was thought: they are decoded again, with room for all."""
    library, pair = driver(), Pair()
    pair.device.words_per_point = 1
    library.stand_in_order(1, 1)
    found = [pair.agree(discs(shape, 1)) for shape in ((256, 256), (300, 400), (256, 256))]
    return {"nuclei": found, "emitted": library.stand_in_count(b"order_nuclei")}


def dropped() -> dict[str, Any]:
    """A segmenter that nobody closes goes in another thread than that which opened it."""
    library = driver()
    with ThreadPoolExecutor(1) as pool:
        pair = pool.submit(Pair).result()
        found = pair.agree(discs((256, 256), 1))
        del pair.device
        return {"nuclei": found, "left": library.stand_in_allocations()}


def steady() -> dict[str, Any]:
    """What memory and copies come to when image follows image."""
    library, pair = driver(), Pair()
    image = discs((300, 300), 1)
    for _ in range(3):
        pair.agree(image)
    before, launches = library.stand_in_allocations(), library.stand_in_count(b"box_masks")
    library.stand_in_copies()
    found = pair.agree(image)
    copies = [line.split() for line in library.stand_in_copies().decode().splitlines()]
    result = {
        "nuclei": found,
        "copies": [(kind, int(size)) for kind, size in copies],
        "grown": library.stand_in_allocations() - before,
        "decoded": library.stand_in_count(b"box_masks") - launches,
        "timings": pair.device.predict(image).timings,
    }
    pair.device.close()
    return {**result, "left": library.stand_in_allocations()}


def failures() -> dict[str, Any]:
    """What goes wrong is told as an error of pnseg's, and the next image is well again where that can be."""
    from pnseg_runtime.errors import BackendError, ImageError, PredictionCancelledError

    told, pair = {}, Pair()
    image = discs((256, 256), 1)
    with_error = {
        "image": (ImageError, lambda: pair.device.predict(np.zeros((3, 3)))),
        "memory": (BackendError, lambda: pair.device.device.upload(None, 8, np.zeros(4, np.uint8))),
        "kernel": (BackendError, lambda: launch(pair, "scan_counts", 1, 2048, 0, 1, 0)),
        "arguments": (Exception, lambda: launch(pair, "scan_counts", 1, 32, 0)),
    }
    for name, (kind, action) in with_error.items():
        with pytest.raises(kind) as caught, pair.device.device.current():
            action()
        told[name] = str(caught.value)
    refuses = pair.engines.decoder.shapes

    def refuse(_: Any) -> Any:
        raise BackendError("no such shape")

    pair.engines.decoder.shapes = refuse
    try:
        pair.device.predict(image)
    except BackendError as error:
        told["engine"] = str(error)
    pair.engines.decoder.shapes = refuses
    for steps in (0, 1):  # called off before the image goes to the GPU, and when its points are known
        answers = iter([False] * steps + [True])
        with pytest.raises(PredictionCancelledError) as caught:
            pair.device.predict(image, cancelled=lambda answers=answers: next(answers))
        told[f"cancelled after {steps}"] = str(caught.value)
    told["nuclei"] = pair.agree(image)
    pair.device.close()
    try:
        pair.device.predict(image)
    except BackendError as error:
        told["closed"] = str(error)
    return told


def too_large() -> dict[str, Any]:
    """An image for which the GPU has not enough memory, and then one for which it has: what each gives."""
    from pnseg_runtime.errors import BackendError

    library = driver()
    library.stand_in_memory.restype = ctypes.c_long
    small, large, told = discs((256, 256), 0), discs((900, 900), 1), []
    pair = Pair()
    pair.device.words_per_point = 16
    pair.device.predict(large)
    needed = library.stand_in_memory(0)
    pair.device.close()
    for share in (0.99, 0.97, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7):
        pair = Pair()
        pair.device.words_per_point = 16
        found = [pair.agree(small)]
        library.stand_in_memory(int(needed * share))
        try:
            pair.device.predict(large)
        except BackendError as error:
            told.append(str(error))
            found.append(pair.agree(small))
        library.stand_in_memory(0)
        pair.device.close()
    return {"told": told, "nuclei": found, "left": library.stand_in_allocations()}


def broken() -> dict[str, Any]:
    """A kernel has failed on the GPU (``STAND_IN_FAILS``): what every verb says, and predictions whole."""
    from pnseg_runtime.cuda.overlap import panoptic_quality
    from pnseg_runtime.errors import BackendError

    pair, image = Pair(), discs((256, 256), 1)
    device, many = pair.device.device, [image] * 3
    labels = np.ones((9, 9), np.int32)
    with device.current():
        stream, before, after = device.stream(), device.event(), device.event()
    actions = {
        "predict": lambda: pair.device.predict(image),
        "predict_many": lambda: list(pair.device.predict_many(many)),
        "overlaps": lambda: panoptic_quality(device, labels, labels),
        "synchronise": lambda: device.synchronise(stream),
        "record": lambda: device.record(before, stream),
        "wait": lambda: device.wait(stream, before),
        "await_event": lambda: device.await_event(before),
        "seconds": lambda: device.seconds(before, after),
    }
    told = {}
    for name, action in actions.items():
        with pytest.raises(BackendError) as caught, device.current():
            action()
        told[name] = str(caught.value)
    return told


def warnings() -> list[str]:
    """What the GPU path warns of from now on."""
    warned: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: warned.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("pnseg_runtime.cuda").addHandler(handler)
    return warned


class Ring:
    """Memory of the GPU that only Python's collector can give back, once nobody knows it any more."""

    def __init__(self, memory: Any) -> None:
        self.memory, self.ring = memory, self


def garbage() -> dict[str, Any]:
    """Memory of the GPU becomes garbage with every launch of a kernel, and Python's collector works without a pause."""
    from pnseg_runtime.cuda.driver import Device

    warned, library, pair, launch = warnings(), driver(), Pair(), Device.launch
    with pair.device.device.current():
        memory = [pair.device.device.memory(16) for _ in range(500)]

    def littering(self: Device, *arguments: Any) -> None:
        launch(self, *arguments)
        Ring(memory.pop())

    library.stand_in_order(1, 1)
    gc.set_threshold(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "launch", littering)
        found = [pair.device.predict(discs((256, 256), seed)) for seed in (1, 2, 3, 1)]
    gc.set_threshold(700)
    assert not warned, warned[0]
    agreed = [pair.check(nuclei, discs((256, 256), seed)) for nuclei, seed in zip(found, (1, 2, 3, 1), strict=True)]
    return {"nuclei": agreed, "graphs": library.stand_in_count(b"graph"), "littered": 500 - len(memory)}


def without_graphs() -> dict[str, Any]:
    """Nothing can be recorded as a graph (``STAND_IN_FAILS``): what is told, and the nuclei."""
    warned, library, pair = warnings(), driver(), Pair()
    library.stand_in_order(1, 1)
    found = [pair.agree(discs((256, 256), seed)) for seed in (1, 2, 3, 1)]
    return {"nuclei": found, "graphs": library.stand_in_count(b"graph"), "warned": warned}


def overlaps() -> dict[str, Any]:
    """PQ of label maps, as the runtime's metrics have it."""
    from scipy.ndimage import gaussian_filter, label

    from pnseg_runtime import metrics
    from pnseg_runtime.cuda.driver import Device
    from pnseg_runtime.cuda.overlap import panoptic_quality

    library, device, found = driver(), Device(), []
    for seed in range(6):
        library.stand_in_order(1, seed + 1)
        rng = np.random.default_rng(seed)
        truth, _ = label(gaussian_filter(rng.normal(size=(90, 120)), 2) > 0.05)
        prediction = np.roll(truth, seed % 3, axis=0)
        maps = [(truth, prediction), (truth, np.zeros_like(truth)), (np.zeros_like(truth),) * 2, (truth, truth)]
        for one, other in maps:
            other = np.unique(other, return_inverse=True)[1].reshape(other.shape)
            got, expected = panoptic_quality(device, one, other), metrics.panoptic_quality(one, other)
            assert got == expected, (got, expected)
            found.append(got["pq"])
    return {"pq": found}


def launch(pair: Pair, *arguments: Any) -> None:
    stream = pair.device.device.stream()
    pair.device.device.launch(stream, *arguments)
    pair.device.device.synchronise(stream)


def plant(module: str, old: str, new: str) -> None:
    """Import a module from a source with one text replaced."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert old in source, f"{module} has no {old!r}"
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    exec(compile(source.replace(old, new), spec.origin, "exec"), made.__dict__)


if __name__ == "__main__":
    if sys.argv[2:]:
        plant(*sys.argv[2:])
    print(json.dumps(globals()[sys.argv[1]]()))
