import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from pnseg_runtime.bundle import Classes
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.nuclei import Nuclei, NucleusClass
from pnseg_runtime.options import Options
from pnseg_train import finder
from pnseg_train.cli.evaluate import evaluate
from pnseg_train.datasets import Sample, read_folder
from pnseg_train.evaluate import Found, mean, measure
from pnseg_train.finder import open_model
from pnseg_train.targets import label_centroids
from tests import golden
from tests.fakes import fake_bundle


def oracle(sample: Sample, keep: int | None = None) -> Nuclei:
    """The annotation itself as a prediction, or its first ``keep`` nuclei."""
    ids = np.unique(sample.instances)[1:][:keep]
    boxes, masks = [], []
    for value in ids:
        ys, xs = np.nonzero(sample.instances == value)
        x0, y0, x1, y1 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        boxes.append((x0, y0, x1, y1))
        masks.append(sample.instances[y0:y1, x0:x1] == value)
    count = len(ids)
    return Nuclei(
        shape=sample.instances.shape,
        points=label_centroids(sample.instances)[:count],
        classes=np.zeros(count, np.int64),
        scores=np.ones(count, np.float32),
        ious=np.ones(count, np.float32),
        boxes=np.array(boxes, np.int32),
        masks=tuple(masks),
        class_table=(NucleusClass("nucleus", (255, 0, 0)),),
    )


@pytest.fixture
def sample() -> Sample:
    return read_folder(golden.TILES, "val")[0]


def test_the_annotation_itself_is_perfect(sample):
    row = measure(sample, Found.of(oracle(sample))).row
    assert {row[name] for name in ("pq", "aji", "aji_plus", "dice", "f1")} == {1.0}
    assert row["nuclei"] == row["found"] == 34


def test_missed_nuclei_lower_recall_and_quality_alone(sample):
    row = measure(sample, Found.of(oracle(sample, keep=17))).row
    assert row["precision"] == row["sq"] == 1.0
    assert row["recall"] == 0.5
    assert row["pq"] == row["dq"] == pytest.approx(2 * 17 / (17 + 34))


def test_mean_is_over_images():
    assert mean([{"pq": 0.0, "f1": 1.0}, {"pq": 0.5, "f1": 0.0}]) == {"pq": 0.25, "f1": 0.5}


class _Fixed:
    manifest = fake_bundle().manifest.model_copy(update={"classes": Classes(names=["nucleus"], colors=[(255, 0, 0)])})

    def __init__(self, sample):
        self.sample = sample

    def predict(self, rgb, mpp=None, points=None, guessed=False):
        assert np.array_equal(rgb, self.sample.image)
        return oracle(self.sample)


def test_the_verb_prints_every_set_and_its_protocol(sample, monkeypatch):
    monkeypatch.setattr(finder, "open_segmenter", lambda model, options: _Fixed(sample))
    arguments = ["nano", "--data", str(golden.TILES), "--split", "val"]
    table = CliRunner().invoke(evaluate, arguments, catch_exceptions=False)
    assert "1.0000" in table.stdout
    assert "IoU over 0.5" in table.stdout
    document = json.loads(CliRunner().invoke(evaluate, [*arguments, "--json"]).stdout)
    assert document["sets"]["cc0_tiles"]["mean"]["pq"] == 1.0
    assert list(document["sets"]["cc0_tiles"]["rows"]) == [sample.name]


def test_three_folders_are_no_model():
    with pytest.raises(PnsegError, match="one bundle"):
        open_model(["a", "b", "c"], Options())


class _Asked(_Fixed):
    """Finds the annotation, and remembers at which resolutions it was asked."""

    def __init__(self, sample):
        super().__init__(sample)
        self.mpps, self.guesses = [], []

    def predict(self, rgb, mpp=None, points=None, guessed=False):
        self.mpps.append(mpp)
        self.guesses.append(guessed)
        return super().predict(rgb)


@pytest.mark.parametrize(("choice", "usual", "stated", "asked"), [
    ("auto", "model", None, [None, 0.375]), ("auto", "model", 0.5, [0.5]), ("model", "auto", None, [None]),
    (None, "model", None, [None]), (None, "auto", None, [None, 0.375]), (None, "auto", 0.5, [0.5]),
    (0.3, "auto", None, [0.3]), (0.3, "model", 0.5, [0.5]),
])  # fmt: skip
def test_a_likely_resolution_is_for_images_that_state_none(sample, monkeypatch, choice, usual, stated, asked):
    assert sample.median_diameter() < 24
    model = _Asked(sample)
    model.manifest = model.manifest.model_copy(update={"unknown_mpp": usual})
    monkeypatch.setattr(finder, "open_segmenter", lambda *_: model)
    find, _ = open_model(["nano"], Options(), mpp=choice)
    find(replace(sample, mpp=stated))
    assert model.mpps == asked
    assert set(model.guesses) == {asked[0] is None}


def test_the_protocol_tells_of_a_second_look(sample, monkeypatch):
    monkeypatch.setattr(finder, "open_segmenter", lambda *_: _Asked(sample))
    for choice, told in (("auto", True), ("model", False), ("0.25", False)):
        arguments = ["nano", "--data", str(golden.TILES), "--mpp", choice]
        result = CliRunner().invoke(evaluate, arguments, catch_exceptions=False)
        assert ("enlarged 1.5 times" in result.stdout) == told
