"""Bundle → checkpoints: the networks that a bundle's graphs were made of, to be trained further.

Where a network's parameters stand in its graphs is found, not written down: a network of the same architecture is
exported whose parameters are their own numbers, 1, 2, 3, … What then stands at a place of a graph is the number of
the parameter that stands there in the bundle's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from pnseg_export.bundle import export_graphs
from pnseg_export.files import read_graph
from pnseg_export.graphs.absorbed_attention import scale
from pnseg_export.graphs.rewrites import TARGETS, Rewrites
from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_train.checkpoints import Card, build
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Segmentor
from pnseg_train.models.sizes import SEGMENTOR_SIZES, ConvSize
from pnseg_train.recipes import Recipe

#: (graph, initializer) → its numbers.
Constants = dict[tuple[str, str], NDArray[np.float32]]

#: Graph → the network that it is a part of.
GRAPHS = {"prompter": "prompter", "encoder": "segmentor", "decoder": "segmentor"}


class Pair(NamedTuple):
    """The two networks."""

    prompter: Prompter
    segmentor: Segmentor


def restore(bundle: Bundle, recipe: Recipe) -> Pair:
    """The two networks whose graphs are in a bundle, in evaluation mode.

    Batch norms, which an export folds into convolutions, come back as mere shifts: see :func:`renormalise`.
    Parameters that no output depends on are those of fresh networks.

    Args:
        bundle: of the size nano.
        recipe: of the bundle's size, classes, L and λ.

    Raises:
        PnsegError: a size whose parameters an export changes for good, or graphs that this version does not make.
    """
    if not isinstance(SEGMENTOR_SIZES[recipe.size], ConvSize):
        raise PnsegError(
            f"{bundle.folder}: SAM's positions were resized when it was exported and cannot be restored; "
            "use the checkpoints that it was made of."
        )
    given = _constants(bundle.path(graph) for graph in GRAPHS)
    pair = Pair(*(build(Card(network=part, recipe=recipe)).eval() for part in Pair._fields))  # type: ignore[arg-type]
    parameters = {part: _flat(network) for part, network in pair._asdict().items()}
    numbers = _numbers(bundle, pair, given)
    factors = _factors(pair.segmentor)
    for (graph, name), values in given.items():
        found = numbers[graph, name]
        factor = next((factor for factor in factors if _are_numbers(found / factor)), None)
        if factor is None or np.array_equal(values, found):
            continue  # computed from parameters, or of none
        at = np.rint(found / factor).astype(int) - 1
        parameters[GRAPHS[graph]][torch.from_numpy(at)] = torch.from_numpy(values / np.float32(factor))
    for part, network in pair._asdict().items():
        _fill(network, parameters[part])
    return pair


@torch.no_grad()
def renormalise(network: nn.Module, run: Callable[[], object]) -> None:
    """Give batch norms the statistics of real data, and take them back by gains and shifts: outputs stay as they are.

    Training goes on from there, since it normalises by the statistics of a batch.

    Args:
        network: a restored one, in evaluation mode.
        run: calls the network once, on many crops.
    """
    seen: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def look(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        seen[norm] = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False)

    with ExitStack() as stack:
        for norm in _norms(network):
            stack.callback(norm.register_forward_pre_hook(look).remove)
        run()
    for norm, (mean, variance) in seen.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        deviation = (norm.running_var + norm.eps).sqrt()
        norm.bias.add_(norm.weight * (mean - norm.running_mean) / deviation)
        norm.weight.mul_((variance + norm.eps).sqrt() / deviation)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


@torch.no_grad()
def _make_shifts(network: nn.Module) -> None:
    for norm in _norms(network):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.weight.fill_(1.0)
        norm.bias.zero_()
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0 - norm.eps)


def _tensors(network: nn.Module) -> list[Tensor]:
    # Everything that an export keeps: of a batch norm the shift, and where its convolution has one, not even that.
    folded = {id(tensor) for norm in _norms(network) for tensor in (norm.weight, *norm.buffers())}
    leaves = [module for module in network.modules() if not any(module.children())]
    for before, norm in pairwise(leaves):
        if isinstance(norm, nn.BatchNorm2d) and getattr(before, "bias", None) is not None:
            folded.add(id(norm.bias))
    kept = (tensor for tensor in network.state_dict(keep_vars=True).values() if id(tensor) not in folded)
    return [tensor.detach() for tensor in kept]


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in _tensors(network)])


def _fill(network: nn.Module, flat: Tensor) -> None:
    tensors = _tensors(network)
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.view(-1).copy_(values)


def _are_numbers(values: NDArray[np.float32]) -> bool:
    # Whole but for the rounding of a product; with a wrong factor some are in the middle, and sines are under one.
    return bool((values >= 1).all() and (np.abs(values - np.rint(values)) < 0.2).all())


def _factors(segmentor: Segmentor) -> list[float]:
    # What rewrites multiply whole tensors by: attention's scale, and a bias that all heads share.
    layers = [module for module in segmentor.modules() if isinstance(module, Attention)]
    return sorted({1.0, *(1.0 / layer.num_heads for layer in layers), *map(scale, layers)}, reverse=True)


def _numbers(bundle: Bundle, pair: Pair, given: Constants) -> Constants:
    """The constants of graphs like the bundle's whose parameters are their own numbers.

    Raises:
        PnsegError: nothing that this version makes has the shapes of the bundle's.
    """
    for network in pair:
        _make_shifts(network)
        # Whole numbers up to 2²⁴ are exact in float32; nano has 3.5 million.
        _fill(network, torch.arange(1.0, 1.0 + len(_flat(network))))
    shapes = {key: values.shape for key, values in given.items()}
    for rewrites in TARGETS.values():
        numbers = _exported(pair, rewrites)
        if {key: values.shape for key, values in numbers.items()} == shapes:
            return numbers
    raise PnsegError(
        f"{bundle.folder}: its graphs are not those that this version makes of such networks; "
        "restore it with the version that exported it, or use the checkpoints that it was made of."
    )


def _exported(pair: Pair, rewrites: Rewrites) -> Constants:
    with tempfile.TemporaryDirectory() as folder:
        export_graphs(*pair, Path(folder), rewrites)
        return _constants(Path(folder) / f"{graph}.onnx" for graph in GRAPHS)


def _constants(files: Iterable[Path]) -> Constants:
    return {
        (graph, tensor.name): numpy_helper.to_array(tensor)
        for graph, file in zip(GRAPHS, files, strict=True)
        for tensor in read_graph(file).graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
