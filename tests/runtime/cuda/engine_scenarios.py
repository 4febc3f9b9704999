"""What the tests do with engines on the stand-ins for the driver and for TensorRT, each in a process of its own.

``python -m tests.runtime.cuda.engine_scenarios NAME BUNDLE [MODULE OLD NEW]``; see :mod:`tests.runtime.cuda.scenarios`.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pnseg_runtime
from pnseg_runtime.bundle import Bundle
from tests.runtime.cuda.scenarios import driver, plant, same
from tests.runtime.made import sample


@cache
def images() -> tuple[Any, ...]:
    """Real tissue of three sizes; the last one takes several windows."""
    return sample("he_pink")[:200, :190], sample("purple_crowded"), sample("he_pink")


def on_the_cpu(bundle: str, **options: Any) -> Any:
    """The runtime's own pipeline with networks that see their items one by one."""
    from pnseg_runtime.options import Options
    from pnseg_runtime.segmenter import Segmenter
    from tests.runtime.cuda.host_engines import onnx_engines

    opened = Bundle.open(bundle)
    return Segmenter(opened, Options(**options), sessions=onnx_engines(opened)[1])


def agree(bundle: str, backend: str, count: int = 3, **options: Any) -> list[int]:
    """Nuclei of each image, which must be those of the CPU in every bit, in many orders of the streams."""
    library, found = driver(), []
    with pnseg_runtime.load(bundle, backend=backend, **options) as segmenter:
        expected = on_the_cpu(bundle, **options)
        for seed in range(count):
            library.stand_in_order(1, seed + 1)
            for image in images()[:count]:
                nuclei = segmenter.predict(image)
                assert same(nuclei, expected.predict(image)), f"{len(nuclei)} nuclei, or others than the CPU's"
                found.append(len(nuclei))
    return found


def networks(bundle: str) -> dict[str, Any]:
    """The engines as plain networks."""
    found = agree(bundle, "tensorrt")
    return {"nuclei": found, "left": driver().stand_in_allocations()}


def augmented(bundle: str) -> dict[str, Any]:
    """The same with test-time augmentation and small batches, on one image: all is done six times."""
    return {"nuclei": agree(bundle, "tensorrt", 1, tta=True, window_batch=3, prompt_batch=20)}


def device(bundle: str) -> dict[str, Any]:
    """Everything on the GPU, through the same adapter."""
    return {"nuclei": agree(bundle, "cuda")}


def images_in_turn(bundle: str) -> dict[str, Any]:
    """Everything on the GPU, each image while the next one travels: graphs of the same shapes, and of others since."""
    from pnseg_runtime.cuda.segmenter import DeviceSegmenter

    small, _, large = images()
    cpu = on_the_cpu(bundle)
    few, many = cpu.predict(small), cpu.predict(large)
    turns = [large, *[small] * 5, large, small, small]  # the large one first, for whose memory graphs are dropped
    expected = [many, *[few] * 5, many, few, few]
    with pnseg_runtime.load(bundle, backend="cuda") as segmenter:
        assert isinstance(segmenter, DeviceSegmenter)
        found = list(segmenter.predict_many(turns))
    told = [len(nuclei) for nuclei in found]
    assert all(map(same, found, expected)), f"{told} nuclei, or others than the CPU's"
    return {"nuclei": [len(nuclei) for nuclei in found], "graphs": driver().stand_in_count(b"graph")}


def steady(bundle: str) -> dict[str, Any]:
    """Image follows image without new memory."""
    with pnseg_runtime.load(bundle, backend="tensorrt") as segmenter:
        image = images()[2]
        for _ in range(2):
            segmenter.predict(image)
        before = driver().stand_in_allocations()
        found = len(segmenter.predict(image))
        return {"nuclei": found, "grown": driver().stand_in_allocations() - before}


def service(bundle: str) -> dict[str, Any]:
    """Several threads, jobs, and a warm-up, with both ways to run the engines."""
    found = {}
    for backend in ("tensorrt", "cuda"):
        with pnseg_runtime.load(bundle, backend=backend) as segmenter:
            segmenter.warm_up()
            jobs = [segmenter.submit(image) for image in images()]
            with ThreadPoolExecutor(3) as pool:
                direct = list(pool.map(segmenter.predict, images()))
            assert all(same(job.result(), nuclei) for job, nuclei in zip(jobs, direct, strict=True))
            found[backend] = [len(nuclei) for nuclei in direct]
            found[f"{backend} reason"] = segmenter.reason
            found[f"{backend} precision"] = segmenter.precision
    return found


if __name__ == "__main__":
    if sys.argv[3:]:
        plant(*sys.argv[3:])
    print(json.dumps(globals()[sys.argv[1]](sys.argv[2])))
