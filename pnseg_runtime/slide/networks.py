"""The networks of one command, open for all its slides; which backend ``auto`` stands for is settled once."""

from __future__ import annotations

from pnseg_runtime.bundle import Bundle
from pnseg_runtime.errors import PnsegError
from pnseg_runtime.segmenter import Segmenter
from pnseg_runtime.sessions import AUTO
from pnseg_runtime.slide.job import Model
from pnseg_runtime.slide.watch import Watcher


class Networks:
    """Opens a model's networks when they are needed, each backend's once."""

    def __init__(self, model: Model, watcher: Watcher | None = None, segmenter: Segmenter | None = None) -> None:
        """Open nothing yet.

        Args:
            model: what was asked for.
            watcher: is told what ``auto`` has chosen.
            segmenter: the model, already open.
        """
        self._model = model
        self._watcher = watcher or Watcher()
        self._given = segmenter
        self._open: dict[Model, Segmenter] = {}
        self._chosen: Model | None = None

    def choose(self) -> Model:
        """The model with what ``auto`` stands for here and now; backends are timed when it is asked first.

        Raises:
            BackendError: none works.
        """
        if self._chosen is None:
            fastest = self._given or Segmenter(Bundle.open(self._model.bundle), self._model.options, AUTO)
            self._watcher.chosen(fastest.reason, fastest.passed_over)
            self._chosen = self._model.on(fastest.backend, fastest.precision)
            self._open[self._chosen] = fastest
        return self._chosen

    def starts(self, model: Model) -> bool:
        """Whether a model's backend starts here; for work that was begun with it."""
        if self._given is not None:
            return (self._given.backend, self._given.precision) == (model.backend, model.options.precision)
        begun = model not in self._open
        try:
            self.segmenter(model)
        except PnsegError:
            return False
        if begun:
            self._watcher.chosen(f"{model.backend} goes on with what was begun with it.", ())
        return True

    def segmenter(self, model: Model) -> Segmenter:
        """A model, open.

        Raises:
            BackendError: its backend does not start.
            BundleError: a network cannot be read.
        """
        if self._given is not None:
            return self._given
        if model not in self._open:
            self._open[model] = Segmenter(Bundle.open(model.bundle), model.options, model.backend)
        return self._open[model]
