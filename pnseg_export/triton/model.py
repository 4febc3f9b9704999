"""The pipeline as a model of Triton's Python backend: an image in, nuclei out.

The networks are models of the same server, called for each step; the rest is pnseg's own pipeline.
The server's Python needs ``pip install pnseg``; PyTorch is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from pnseg_runtime.bundle import Bundle, read_manifest
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.limits import Limits
from pnseg_runtime.nuclei import Nuclei
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import Sessions

Arrays = dict[str, np.ndarray]
#: Parameters of the model's configuration: what the networks take at most, if they are engines.
LIMITS = [field.name for field in fields(Limits)]


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the manifest, and which models are the networks."""
        folder = Path(args["model_repository"]) / args["model_version"]
        manifest = read_manifest(folder / "manifest.json")
        parameters = json.loads(args["model_config"])["parameters"]
        runners = {
            network: network_model(parameters[network]["string_value"], list(graph.outputs))
            for network, graph in manifest.graphs.items()
        }
        sessions = Sessions(runners["prompter"], runners["encoder"], runners["decoder"])
        told = {name: int(parameters[name]["string_value"]) for name in LIMITS if name in parameters}
        limits = Limits(**told) if told else None
        self.segmenter = Segmenter(Bundle(folder, manifest), sessions=replace(sessions, limits=limits))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request; an image that cannot be segmented fails alone."""
        return [self.respond(request) for request in requests]

    def respond(self, request: Any) -> Any:
        """The nuclei of one image, or why there are none."""
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        try:
            nuclei = self.segmenter.predict(image)
        except PnsegError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs(nuclei).items()]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def outputs(nuclei: Nuclei) -> Arrays:
    """The tensors of the answer; row i of each belongs to the value i + 1 of the label map."""
    return {
        "labels": nuclei.instance_map(),
        "points": nuclei.points,
        "classes": nuclei.classes,
        "scores": nuclei.scores,
        "predicted_iou": nuclei.ious,
        "boxes": nuclei.boxes,
    }


def network_model(name: str, wanted: list[str]) -> Callable[[Arrays], Arrays]:
    """A model of this server as a function of named arrays."""

    def run(inputs: Arrays) -> Arrays:
        request = pb_utils.InferenceRequest(
            model_name=name,
            requested_output_names=wanted,
            inputs=[pb_utils.Tensor(key, np.ascontiguousarray(array)) for key, array in inputs.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            raise PnsegError(f"{name}: {response.error().message()}")
        return {key: pb_utils.get_output_tensor_by_name(response, key).as_numpy() for key in wanted}

    return run
