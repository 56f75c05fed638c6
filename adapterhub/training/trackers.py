"""Who is told of losses and pictures while a run goes on: TensorBoard, Weights & Biases, Trackio."""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapterhub.errors import MissingExtraError, TrackerError

logger = logging.getLogger(__name__)

PROJECT = "adapterhub"
"""What Weights & Biases and Trackio file runs under."""
TAKE_PICTURES = ("tensorboard", "wandb")


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of trackers are installed.

    Raises:
        MissingExtraError: One is not.
    """
    for name in names:
        spec = find_spec(name)
        # A folder of that name, such as wandb leaves in the directory that it is called in, is no package.
        if spec is None or spec.origin is None:
            raise MissingExtraError("trackers", name)


class Trackers:
    """accelerate's trackers of one run, active inside `with`.

    Values are collected while a pass goes on and handed on with `send`, so that a tracker sees each pass
    once, in order: its axis counts passes of the run, and `step/NAME` says the adapter's own step.

    Args:
        names: Any of `adapterhub.training.config.TRACKERS`.
        run: What the run is called.
        directory: Of the run; TensorBoard's files go to `tensorboard` in it.
        config: What they keep beside the curves.
        passes: Done when the run went on; what a tracker knows of later ones is void.

    Raises:
        TrackerError: On entering: one cannot be started.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        run: str,
        directory: Path,
        config: Mapping[str, Any],
        passes: int = 0,
    ) -> None:
        self._names, self._run, self._directory = names, run, directory
        self._config, self._passes = dict(config), passes
        self._trackers: dict[str, Any] = {}
        self._scalars: dict[str, float] = {}
        self._pictures: dict[str, Sequence[Image.Image]] = {}

    def scalar(self, what: str, name: str, value: float) -> None:
        """Collect one number of an adapter, such as its `loss`."""
        if self._trackers:
            self._scalars[f"{what}/{name}"] = value

    def pictures(self, what: str, name: str, pictures: Sequence[Image.Image]) -> None:
        """Collect pictures of an adapter, all of one size."""
        if self._trackers:
            self._pictures[f"{what}/{name}"] = pictures

    def send(self, passes: int) -> None:
        """Hand on what was collected, as that of a pass."""
        scalars, pictures = self._scalars, self._pictures
        self._scalars, self._pictures = {}, {}
        for name, tracker in self._trackers.items():
            if scalars:
                tracker.log(scalars, step=passes)
            if not pictures or name not in TAKE_PICTURES:
                continue
            if name == "tensorboard":
                stacked = {at: np.stack([np.asarray(one) for one in own]) for at, own in pictures.items()}
                tracker.log_images(stacked, step=passes, dataformats="NHWC")
            else:
                tracker.log_images(pictures, step=passes)

    def __enter__(self) -> "Trackers":
        if self._names:
            from accelerate.state import PartialState
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            PartialState()  # its trackers ask it who they are
            for name in self._names:
                tracker = LOGGER_TYPE_TO_CLASS[name](**self._settings(name))
                tracker.main_process_only = False  # each process has runs of its own
                try:
                    with redirect_stdout(sys.stderr):  # what commands print there is data
                        tracker.start()
                except Exception as exc:
                    self.__exit__()
                    raise TrackerError(name, str(exc) or repr(exc)) from exc
                self._trackers[name] = tracker
        return self

    def __exit__(self, *_: object) -> None:
        trackers, self._trackers = self._trackers, {}
        for name, tracker in trackers.items():
            try:
                with redirect_stdout(sys.stderr):
                    tracker.finish()
            except Exception as exc:  # noqa: BLE001 - they raise what they like
                logger.warning("the tracker %s did not finish: %s", name, exc)

    def _settings(self, name: str) -> dict[str, Any]:
        if name == "tensorboard":
            purge = {"purge_step": self._passes + 1} if self._passes else {}
            return {"run_name": name, "logging_dir": self._directory, **purge}
        settings: dict[str, Any] = {"run_name": PROJECT, "name": self._run, "config": self._config}
        # Its files would lie wherever the command was called.
        return {**settings, "dir": str(self._directory)} if name == "wandb" else settings
