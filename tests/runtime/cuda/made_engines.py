"""A bundle whose engines the stand-in for TensorRT runs: each names its graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pnseg_export.engines.profiles import Buckets, profiles
from pnseg_runtime.bundle import MANIFEST_NAME, Bundle, EngineFile, file_entry

#: What the stand-in driver and the stand-in library are.
ARCHITECTURE, VERSION = "sm86", "11.4.0"


def bundle_with_engines(folder: Path, buckets: Buckets | None = None, damaged: str = "", **changes: Any) -> Path:
    """nano with engines.

    Args:
        folder: of the bundle, which must not be there.
        buckets: of the profiles.
        damaged: a network whose engine does not load.
        changes: of every engine's entry in the manifest.
    """
    shutil.copytree(Bundle.open("nano").folder, folder, ignore=shutil.ignore_patterns(".cache"))
    bundle, engines = Bundle.open(folder), []
    place = folder / "engines"
    place.mkdir()
    (place / "log").write_text("built")
    for name, graph in bundle.manifest.graphs.items():
        shapes = profiles(name, graph.inputs, buckets or Buckets(), bundle.manifest.masking.window, 32)
        told = {
            "graph": str(folder / graph.file),
            "inputs": graph.inputs,
            "outputs": graph.outputs,
            "profiles": [{key: value.model_dump() for key, value in profile.items()} for profile in shapes],
            "spacing": bundle.manifest.prompting.anchor_spacing,
        }
        path = place / f"{name}.engine"
        path.write_text("damaged" if name == damaged else json.dumps(told))
        entry = {
            **file_entry(path, folder).model_dump(),
            "flavour": "tensorrt",
            "version": VERSION,
            "architectures": [ARCHITECTURE],
            "precision": "float16",
            "graph": name,
            "inputs": graph.inputs,
            "outputs": graph.outputs,
            "profiles": shapes,
            "census": {},
            "layers": {},
            "seconds": 1.0,
            "log": file_entry(place / "log", folder),
        }
        engines.append(EngineFile.model_validate(entry | changes))
    manifest = bundle.manifest.model_copy(update={"engines": engines})
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return folder
