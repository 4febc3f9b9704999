"""A slide of 100,000×100,000 px in less than 2 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.slide.made import giant_slide

pytest.importorskip("zarr", minversion="3")

LIMIT_KB = 2_000_000
SCRIPT = """
import json, re, sys, time
from pathlib import Path
from pnseg_runtime.slide import segment_slide
start = time.time()
result = segment_slide(sys.argv[1], sys.argv[2], threads=2, backend=sys.argv[3])
# Not ru_maxrss: a child begins with its parent's.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({
    "nuclei": result.nuclei, "kb": peak, "seconds": time.time() - start, "mm2": result.area_mm2,
}))
"""


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return giant_slide(tmp_path_factory.mktemp("slides") / "giant.ome.zarr")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="how a process learns its peak is a matter of the system")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_slide_of_ten_gigapixels_takes_less_than_two_gigabytes(slide: Path, backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    command = [sys.executable, "-c", SCRIPT, str(slide), str(tmp_path / "out"), backend]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["nuclei"] > 100
    assert told["kb"] < LIMIT_KB
    run = json.loads((tmp_path / "out" / "giant.run.json").read_text())
    assert (run["slide"]["width"], run["slide"]["height"]) == (100_000, 100_000)
    assert run["cores"] < 30  # of 2,756: the white ones are not even read
