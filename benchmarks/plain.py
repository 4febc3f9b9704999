"""The method's inference as its description reads (paper section 3.3), with nothing saved.

What the runtime is measured against: one window after the other, every point in every window that
holds it, with its negatives and again without, all masks at full resolution, box NMS by torchvision
on all masks at once. The networks are either PyTorch's modules or ONNX Runtime's sessions on graphs
that were exported without rewrites and are opened with its defaults but for the number of threads.
Parts that this shares with the runtime are data alone: the manifest's values.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from pnseg_runtime.bundle import Manifest
from pnseg_train.models.features import ImageFeatures
from pnseg_train.models.prompter import Prompter
from pnseg_train.models.segmentor import Prompts, Segmentor


@dataclass(frozen=True)
class PlainNetworks:
    """Both networks as functions of tensors.

    Attributes:
        propose: image (1, 3, H, W) → points (M, 2), class logits (M, C + 1), region logits (H, W).
        encode: window (1, 3, 256, 256) → whatever ``decode`` needs.
        decode: that, coords (P, n, 2), labels (P, n) → mask logits (P, m, m), predicted IoU (P,).
    """

    propose: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    encode: Callable[[Tensor], tuple[Tensor, ...]]
    decode: Callable[[tuple[Tensor, ...], Tensor, Tensor], tuple[Tensor, Tensor]]


def eager_networks(prompter: Prompter, segmentor: Segmentor) -> PlainNetworks:
    """PyTorch's modules, eager."""

    def propose(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points, logits, region = prompter(image)
        return points[0], logits[0], region[0, 0]

    def encode(window: Tensor) -> tuple[Tensor, ...]:
        return tuple(part for part in segmentor.encode(window) if part is not None)

    def decode(features: tuple[Tensor, ...], coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.zeros(len(coords), dtype=torch.int64)
        found = segmentor.decode(ImageFeatures(*features), Prompts(coords, labels, index))
        return found.mask_logits, found.iou

    return PlainNetworks(propose, encode, decode)


def onnxruntime_networks(folder: Path, threads: int) -> PlainNetworks:
    """ONNX Runtime's sessions on the three graphs in a folder."""

    def session(graph: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(os.fspath(folder / f"{graph}.onnx"), options, ["CPUExecutionProvider"])

    prompter, encoder, decoder = (session(graph) for graph in ("prompter", "encoder", "decoder"))
    names = [output.name for output in encoder.get_outputs()]

    def propose(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        points, logits, region = map(torch.from_numpy, prompter.run(None, {"image": image.numpy()}))
        return points[0], logits[0], region[0, 0]

    def encode(window: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.from_numpy, encoder.run(names, {"image": window.numpy()})))

    def decode(features: tuple[Tensor, ...], coords: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        tensors = {name: part.numpy() for name, part in zip(names, features, strict=True)}
        index = np.zeros(len(coords), np.int64)
        asked = {"point_coords": coords.numpy(), "point_labels": labels.numpy(), "image_index": index}
        logits, iou = decoder.run(["mask_logits", "iou"], {**tensors, **asked})
        return torch.from_numpy(logits), torch.from_numpy(iou)

    return PlainNetworks(propose, encode, decode)


@dataclass(frozen=True)
class PlainSegmenter:
    """The whole pipeline: an RGB image (H, W, 3) uint8 → its instance map (H, W) int32."""

    networks: PlainNetworks
    manifest: Manifest

    @torch.no_grad()
    def __call__(self, rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
        height, width, _ = rgb.shape
        image = self._normalised(rgb)
        points = self._points(image)
        found = [self._window(image, points, x, y) for x, y in self._windows(height, width)]
        masks, boxes, ious, owners = (torch.cat(parts) for parts in zip(*found, strict=True))
        return self._painted(masks, boxes, ious, owners, (height, width))

    def _normalised(self, rgb: NDArray[np.uint8]) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))[None].float() / 255
        normalisation = self.manifest.normalisation
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (normalisation.mean, normalisation.std))
        return (image - mean) / std

    def _points(self, image: Tensor) -> Tensor:
        """(N, 2) points of foreground anchors, filtered where the manifest says so, behind point NMS."""
        prompting = self.manifest.prompting
        height, width = image.shape[2:]
        grow = (-width % prompting.pad_multiple, -height % prompting.pad_multiple)
        padded = F.pad(image, (0, grow[0], 0, grow[1]), mode="reflect")
        points, logits, region = self.networks.propose(padded)
        columns = padded.shape[3] // prompting.anchor_spacing
        row = torch.arange(len(points)) // columns
        column = torch.arange(len(points)) % columns
        own = (row < -(-height // prompting.anchor_spacing)) & (column < -(-width // prompting.anchor_spacing))
        points, logits = points[own], logits[own].clone()
        logits[:, -1] -= prompting.sensitivity
        scores, classes = logits.softmax(dim=1).max(dim=1)
        nuclei = classes < logits.shape[1] - 1
        points, scores = points[nuclei], scores[nuclei]
        points = points.clamp(min=0)
        points = torch.minimum(points, torch.tensor([width - 1.0, height - 1.0]))
        if prompting.region_filter:
            inside = region[points[:, 1].long(), points[:, 0].long()] > 0
            points, scores = points[inside], scores[inside]
        order = scores.argsort(descending=True, stable=True)
        points = points[order]
        distance = torch.cdist(points, points)
        keep = torch.ones(len(points), dtype=torch.bool)
        for index in range(len(points)):
            if keep[index]:
                keep[index + 1 :] &= distance[index, index + 1 :] > prompting.nms_radius
        return points[keep]

    def _windows(self, height: int, width: int) -> list[tuple[int, int]]:
        side, stride = self.manifest.masking.window, self.manifest.masking.window - self.manifest.masking.overlap
        starts = [[*range(0, max(length - side, 0), stride), max(length - side, 0)] for length in (height, width)]
        return [(x, y) for y in starts[0] for x in starts[1]]

    def _window(self, image: Tensor, points: Tensor, x: int, y: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masks (n, 256, 256) bool, boxes in the image, predicted IoU and points of one window."""
        masking, negatives = self.manifest.masking, self.manifest.prompting.negatives
        side = masking.window
        held = ((points >= torch.tensor([x, y])) & (points < torch.tensor([x + side, y + side]))).all(dim=1)
        owners = held.nonzero()[:, 0]
        if not len(owners):
            return torch.empty(0, side, side, dtype=torch.bool), torch.empty(0, 4), torch.empty(0), owners
        local = points[owners] - torch.tensor([x, y])
        part = image[:, :, y : y + side, x : x + side]
        window = F.pad(part, (0, side - part.shape[3], 0, side - part.shape[2]), mode="reflect")
        features = self.networks.encode(window)
        outputs = [self.networks.decode(features, *_prompts(local, k)) for k in ([negatives, 0] if negatives else [0])]
        logits, ious = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        masks = F.interpolate(logits[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0] > 0
        height, width = image.shape[2:]
        masks[:, height - y :], masks[:, :, width - x :] = False, False
        owners = owners.repeat(len(outputs))
        filled = masks.flatten(1).any(dim=1)
        masks, ious, owners = masks[filled], ious[filled], owners[filled]
        boxes = masks_to_boxes(masks) if len(masks) else torch.empty(0, 4)
        near, ends = boxes <= masking.border, boxes >= side - 1 - masking.border
        cut = (near[:, 0] & (x > 0)) | (near[:, 1] & (y > 0))
        cut |= (ends[:, 2] & (x + side < width)) | (ends[:, 3] & (y + side < height))
        whole = ~cut
        return masks[whole], boxes[whole] + torch.tensor([x, y, x, y]), ious[whole], owners[whole]

    def _painted(
        self, masks: Tensor, boxes: Tensor, ious: Tensor, owners: Tensor, shape: tuple[int, int]
    ) -> NDArray[np.int32]:
        """The best mask of every point, box NMS over classes, the more confident painted last."""
        order = ious.argsort(descending=True, stable=True)
        seen: set[int] = set()
        best = [i for i in order.tolist() if not (int(owners[i]) in seen or seen.add(int(owners[i])))]  # type: ignore[func-returns-value]
        chosen = torch.tensor([i for i in best if ious[i] >= self.manifest.masking.iou_threshold], dtype=torch.int64)
        # torchvision's boxes end at their last pixel's far edge.
        edges = boxes[chosen] + torch.tensor([0, 0, 1, 1])
        kept = chosen[nms(edges, ious[chosen], self.manifest.masking.nms_iou)]
        labels = np.zeros(shape, np.int32)
        for label, index in reversed(list(enumerate(kept.tolist(), start=1))):
            x0, y0, x1, y1 = boxes[index].long().tolist()
            mask = masks[index]
            rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
            cropped = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].numpy()
            labels[y0 : y1 + 1, x0 : x1 + 1][cropped] = label
        return labels


def _prompts(points: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Every point with its nearest others as negatives; missing ones lie at (0, 0) with the label −1."""
    coords = torch.zeros(len(points), 1 + negatives, 2)
    labels = torch.full((len(points), 1 + negatives), -1.0)
    coords[:, 0], labels[:, 0] = points, 1
    found = min(negatives, len(points) - 1)
    if found:
        distance = torch.cdist(points, points)
        distance.fill_diagonal_(torch.inf)
        coords[:, 1 : 1 + found] = points[distance.topk(found, largest=False).indices]
        labels[:, 1 : 1 + found] = 0
    return coords, labels
