# ruff: noqa: E501 (a fault is a row of a table)
"""Faults that kernels have when they are written in a hurry, planted one at a time: the tests of the kernels find each."""

import faulthandler
import os
import shutil
import signal

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pnseg_runtime.cuda.binaries import KERNELS
from pnseg_runtime.windows import windows
from tests.runtime.cuda import cases, twins
from tests.runtime.cuda.emulated import EmulationError, Emulator, kernel_library


def decode(run, rng):
    raw, _ = cases.prompter_outputs(rng, (90, 130), 8, 3)
    raw["class_logits"] = np.round(raw["class_logits"])
    raw["class_logits"][::9, 1] = np.nan
    twins.check_decode(run, raw, (90, 130), 8)


def compact(run, rng):
    n, coords, kinds, scores = (
        300,
        rng.random((300, 2), np.float32),
        rng.integers(0, 9, 300),
        rng.random(300, np.float32),
    )
    keep = (rng.random(n) < 0.5).astype(np.int32)
    out = [twins.junk(n, 2, dtype=np.float32), twins.junk(n), twins.junk(n, dtype=np.float32)]
    total = twins.one(0)
    run("compact_points", 1, 64, coords, kinds.astype(np.int32), scores, keep, None, n, *out, total)
    twins.same(out[0][: total[0]], coords[keep == 1])
    starts = twins.junk(n + 1)
    run("scan_counts", 1, 64, keep, n, starts)
    twins.same(starts[1:], np.cumsum(keep))


def points(run, rng):
    twins.check_suppress_points(run, *cases.points(rng, 200), 5.0)


def prompts(run, rng):
    twins.check_prompts(run, cases.distinct_points(rng, 300, (90, 200)), (90, 200), 64, 16, 2, "central")
    twins.check_prompts(run, cases.distinct_points(rng, 60, (90, 200)), (90, 200), 64, 16, 4, "all")


def masks(run, rng):
    origins = windows((150, 170), 64, 16)[rng.integers(0, 6, 40)]
    twins.check_masks(run, cases.specks(rng, 40, 16), origins, 64, (150, 170))
    twins.check_masks(run, np.round(cases.logits(rng, 40, 16), 1), origins, 64, (150, 170))


def match(run, rng):
    ious = rng.choice(np.array([0.0, -0.0, 0.5, 0.9], np.float32), 200)
    twins.check_match(run, rng.integers(0, 50, 200), ious, rng.random(200) < 0.2, 0.0)


def tidy(run, rng):
    smooth = [gaussian_filter(rng.normal(size=(33, width)), 1.5) > 0.05 for width in (31, 33, 64, 70)]
    equal = np.zeros((9, 40), bool)
    equal[1:3, 30:33] = equal[5:7, 3:6] = True
    twins.check_tidy(run, [*smooth, equal, cases.rings(rng, 40), cases.spiral(41)])


def boxes(run, rng):
    twins.check_boxes(run, *cases.boxes(rng, 300), 0.35)


def shares(run, rng):
    twins.check_shares(run, *cases.placed_masks(rng, 90, (90, 110)), 0.3)
    twins.check_shares(run, *cases.halves(), 0.5)


def paint(run, rng):
    placed, pixels, ious = cases.placed_masks(rng, 60, (90, 110))
    twins.check_paint(run, placed, pixels, ious, rng.random(60) < 0.8, (90, 110), True)


def normalise(run, rng):
    twins.check_normalise(run, rng.integers(0, 256, (20, 45, 3), dtype=np.uint8), 32, 8)


def overlaps(run, rng):
    maps = [rng.integers(0, 40, (3, 50)).astype(np.int32) for _ in range(2)]
    maps[1][:2] = maps[0][:2]
    for labels in maps:
        labels.ravel()[:40] = np.arange(40)  # all of them, as a label map without gaps has it
    twins.check_overlaps(run, *maps)


pytestmark = pytest.mark.slow

BARRIER = "    __syncthreads();\n"
FAULTS = {
    # barriers that are missing
    "scan without the barrier before the sum of warps": (compact, "common.cuh", "partial[warp] = sum;\n" + BARRIER, "partial[warp] = sum;\n"),
    "scan without the barrier behind the sum of warps": (compact, "common.cuh", "    }\n" + BARRIER + "    const int before", "    }\n    const int before"),
    "scan whose memory is used again too early": (compact, "common.cuh", "    __syncthreads();  // so that", "    // so that"),
    "points read before they are loaded": (prompts, "windows.cu", BARRIER + "            for (int t = 0; t < min(128", "            for (int t = 0; t < min(128"),
    "points overwritten while they are read": (prompts, "windows.cu", "            }\n            __syncthreads();\n", "            }\n"),
    "values ranked before they are loaded": (boxes, "boxes.cu", BARRIER + "        for (int t = 0; t < min(256", "        for (int t = 0; t < min(256"),
    "values overwritten while they are ranked": (boxes, "boxes.cu", "first + t < i);\n        __syncthreads();\n", "first + t < i);\n"),
    "a strip written where the rows of all would lie": (boxes, "boxes.cu", "(size_t)(i - start * 64)", "(size_t)i"),
    "a strip read where the rows of all would lie": (boxes, "boxes.cu", "(size_t)(first - start * 64)", "(size_t)first"),
    "a strip that goes on behind its end": (boxes, "boxes.cu", "word < start + words && word", "word"),
    "boxes compared before they are loaded": (boxes, "boxes.cu", BARRIER + "    if (i >= n) return;\n    const int record", "    if (i >= n) return;\n    const int record"),
    "suppression that does not wait for the diagonal": (boxes, "boxes.cu", BARRIER + "        if (threadIdx.x == 0) {", "        if (threadIdx.x == 0) {"),
    "suppression that does not wait for what is kept": (boxes, "boxes.cu", BARRIER + "        if ((int)threadIdx.x < here) keep", "        if ((int)threadIdx.x < here) keep"),
    "boxes joined before they are cleared": (masks, "masks.cu", "= -FAR;\n    }\n" + BARRIER, "= -FAR;\n    }\n"),
    "boxes read before they are joined": (masks, "masks.cu", "    }\n" + BARRIER + "    const int4 box = make_int4(shared", "    }\n    const int4 box = make_int4(shared"),
    "boxes cleared before they are read": (masks, "masks.cu", BARRIER + "    return box;", "    return box;"),
    "the next piece sought before the last is forgotten": (tidy, "tidy.cu", "if (threadIdx.x == 0) seed = n;\n            __syncthreads();\n", "if (threadIdx.x == 0) seed = n;\n"),
    "rows moved over rows that are still read": (tidy, "tidy.cu", "        }\n        __syncthreads();\n        if (i < moved)", "        }\n        if (i < moved)"),
    # threads that leave or vote where they must not
    "threads that leave before a barrier": (boxes, "boxes.cu", "    if (first + (int)threadIdx.x < n) {\n        const int record", "    if (i >= n) return;\n    if (first + (int)threadIdx.x < n) {\n        const int record"),
    "lanes that leave before a vote": (masks, "masks.cu", "const bool on = x < width && positive", "if (x >= width) continue;\n        const bool on = positive"),
    # counts and borders that are off by one
    "NMS without the points at exactly the radius": (points, "points.cu", "dx * dx + dy * dy > radius * radius", "dx * dx + dy * dy >= radius * radius"),
    "NMS that does not see the last column of cells": (points, "points.cu", "min(column + 1, columns - 1) + 1", "min(column + 1, columns - 1)"),
    "a window that holds the first pixel behind it": (prompts, "windows.cu", "point.x < (float)", "point.x <= (float)"),
    "depth from the pixel behind the window": (prompts, "windows.cu", "(window - 1) - before", "window - before"),
    "masks without the ring around their logits": (masks, "masks.cu", "min(box.z + 1, size)", "min(box.z, size)"),
    "a border that is one pixel wide too little": (masks, "masks.cu", "window - (tight.z - 1) <= border", "window - tight.z < border - 1"),
    "half a pixel forgotten": (masks, "masks.cu", "(i % factor + 0.5) / factor - 0.5", "(double)(i % factor) / factor"),
    "mirroring that repeats the edge": (normalise, "normalise.cu", "period - i", "period - i + 1"),
    "points cut off at the image's size": (decode, "decode.cu", "(float)(width - 1)", "(float)width"),
    "holes that corners leak into": (tidy, "tidy.cu", "grow(out, mask, true, false, area)", "grow(out, mask, true, true, area)"),
    "pieces that corners do not join": (tidy, "tidy.cu", "grow(now, out, true, true, area)", "grow(now, out, true, false, area)"),
    "regions that stop at a word": (tidy, "tidy.cu", "if (word > 0) wide |= row[word - 1] >> 31;", ""),
    "an IoU of one half that matches": (overlaps, "overlap.cu", "2 * shared > either", "2 * shared >= either - 1"),
    "masks that share as much as is allowed": (shares, "boxes.cu", "(double)shared > threshold", "(double)shared >= threshold"),
    "a share of the larger mask": (shares, "boxes.cu", "threshold * (double)min(", "threshold * (double)max("),
    "columns that end at a word": (shares, "boxes.cu", "low >> shift | high << (32 - shift)", "low >> shift"),
    "a word before the first of a row": (shares, "boxes.cu", "word >= 0 && word < words ? bits[word]", "word < words ? bits[word]"),
    "rows of the other mask from its own top": (shares, "boxes.cu", "other + (y - b.y) * others", "other + (y - a.y) * others"),
    # ties that go the wrong way
    "the last of equal classes": (decode, "decode.cu", "!(logit <= highest)", "!(logit < highest)"),
    "the last of equal scores": (points, "points.cu", "other >= i", "other <= i"),
    "the farther of equal neighbours": (prompts, "windows.cu", "distance[q - 1] > far", "distance[q - 1] >= far"),
    "the last of equally central windows": (prompts, "windows.cu", "now > deepest", "now >= deepest"),
    "the last of equal masks": (match, "match.cu", "(0xffffffffu - (u32)r)", "(u32)r"),
    "the last of equal boxes": (boxes, "boxes.cu", "first + t < i)", "first + t > i)"),
    "the last of equally large pieces": (tidy, "tidy.cu", "if (pixels > record_area) best", "if (pixels >= record_area) best"),
    "zeros of two signs": (match, "common.cuh", "    value += 0.0f;\n", ""),
    "the least confident on top": (paint, "paint.cu", "atomicMin", "atomicMax"),
}  # fmt: skip
#: The files whose kernels a check runs.
UNITS = {
    normalise: ["normalise.cu"],
    decode: ["decode.cu", "compact.cu"],
    compact: ["compact.cu"],
    points: ["points.cu", "compact.cu"],
    prompts: ["windows.cu", "compact.cu"],
    masks: ["masks.cu"],
    match: ["match.cu"],
    tidy: ["tidy.cu"],
    boxes: ["boxes.cu"],
    shares: ["boxes.cu"],
    paint: ["paint.cu", "tidy.cu"],
    overlaps: ["overlap.cu"],
}


CHECKS = sorted(UNITS, key=lambda check: check.__name__)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, tmp_path):
    check, file, old, new = FAULTS[fault]
    for path in KERNELS.glob("*.cu*"):
        shutil.copy(path, tmp_path)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert old in text, f"{file} has no {old!r} to change"
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    library = kernel_library(tmp_path, UNITS[check])
    assert outcome(lambda: passes(check, Emulator(library))) != "passed"


def passes(check, run, seeds=12):
    for seed in range(seeds):
        run.shuffle(seed)
        check(run, np.random.default_rng(seed))


def outcome(action):
    """What becomes of an action in a process of its own: kernels with faults may run anywhere and for ever."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        signal.setitimer(signal.ITIMER_PROF, 20)  # s of its own work, however many others take the cores
        signal.alarm(300)
        try:
            action()
        except (AssertionError, EmulationError):
            os._exit(1)
        except AttributeError:  # a kernel is not there
            os._exit(2)
        except BaseException:  # what comes of junk
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code != 2, "a kernel is missing"
    return "passed" if code == 0 else "found" if code == 1 else "crashed"


@pytest.mark.parametrize("check", CHECKS)
def test_the_kernels_as_they_are_pass_what_finds_the_faults(run, check):
    passes(check, run)


@pytest.mark.parametrize("check", CHECKS)
def test_no_kernel_does_what_the_language_leaves_undefined(check):
    # Overflows, shifts too far, addresses that no vector load may have: each ends the process at once.
    flags = ["-fsanitize=undefined", "-fno-sanitize=vptr", "-fsanitize-undefined-trap-on-error"]
    library = kernel_library(flags=flags)
    assert outcome(lambda: passes(check, Emulator(library), seeds=3)) == "passed"
