"""Vendors OpenSeadragon (BSD 3-Clause) for ``pnseg view`` by npm when the package is built.

``python hatch_build.py`` does the same in a checkout. Without npm everything else is built and
``pnseg view`` says what is missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object  # type: ignore[assignment,misc]

VIEW = Path(__file__).parent / "pnseg_runtime" / "view"
VENDOR = VIEW / "static" / "vendor"
WANTED = {
    "openseadragon/build/openseadragon/openseadragon.min.js": "openseadragon.min.js",
    "openseadragon/LICENSE.txt": "openseadragon.LICENSE.txt",
}


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg,misc,valid-type]
    """Called by hatchling before a wheel, an editable one too, or a source archive is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        vendor()


def vendor() -> bool:
    """Put the files into the package; True if they are there."""
    if all((VENDOR / name).is_file() for name in WANTED.values()):
        return True
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: pnseg view will be without its page", file=sys.stderr)
        return False
    with tempfile.TemporaryDirectory() as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(VIEW / name, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)  # noqa: S603
        if done.returncode:
            print(f"npm failed: pnseg view will be without its page\n{done.stderr}", file=sys.stderr)
            return False
        VENDOR.mkdir(parents=True, exist_ok=True)
        for source, name in WANTED.items():
            shutil.copy(Path(folder) / "node_modules" / source, VENDOR / name)
    return True


if __name__ == "__main__":
    sys.exit(not vendor())
