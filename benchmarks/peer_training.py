"""Training of one adapter in a process of its own: by diffusers' script, and by `adapterhub train`.

The script is `examples/text_to_image/train_text_to_image_lora_sdxl.py` of a checkout of diffusers, run as it
stands on the same base, pictures, captions, steps, rank, batch, resolution, rate and precision. Both sides
import and load everything in each run, and begin with empty caches. Each is run twice, once ten times as
long: the difference is the rate after the start. So the short run should show each picture once already.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from adapterhub.bases.find import Base

SCRIPT = Path("examples", "text_to_image", "train_text_to_image_lora_sdxl.py")
PRECISION = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}
LONGER, RATE = 10, "1e-4"
PEER, ONE = "peer's script", "one process"


@dataclass(frozen=True)
class Work:
    """What both sides train.

    Attributes:
        base: In a directory.
        device: `cpu` or `cuda`.
        dtype: That the base computes in.
        pictures: Folder with a `metadata.jsonl`.
        rank: Of the adapter.
        steps: Of the short run.
    """

    base: Base
    device: str
    dtype: str
    pictures: Path
    rank: int
    steps: int


def cases(checkout: Path, work: Work) -> dict[str, Callable[[], None]]:
    """Return the four runs by name."""
    return {
        _name(side, steps): lambda run=run, steps=steps: run(work, steps)
        for steps in (work.steps, work.steps * LONGER)
        for side, run in ((PEER, lambda work, steps: _run_peer(checkout, work, steps)), (ONE, _run_ours))
    }


def rates(seconds: Mapping[str, float], steps: int) -> dict[str, float]:
    """Return pictures per second after the start, of each side."""
    more = steps * (LONGER - 1)
    return {
        side: more / (seconds[_name(side, steps * LONGER)] - seconds[_name(side, steps)])
        for side in (PEER, ONE)
    }


def ratios(seconds: Mapping[str, float], rates: Mapping[str, float], steps: int) -> tuple[float, float]:
    """Return how many times as fast ours is: in the long run as a whole, and after the start."""
    long = steps * LONGER
    return seconds[_name(PEER, long)] / seconds[_name(ONE, long)], rates[ONE] / rates[PEER]


def _name(side: str, steps: int) -> str:
    return f"{side}, {steps} steps"


def _run_peer(checkout: Path, work: Work, steps: int) -> None:
    with TemporaryDirectory() as folder:
        _run(
            work.device,
            checkout / SCRIPT,
            *("--pretrained_model_name_or_path", work.base.path),
            *("--train_data_dir", work.pictures),
            *("--resolution", work.base.resolution),
            *("--train_batch_size", 1),
            *("--max_train_steps", steps),
            *("--rank", work.rank),
            *("--learning_rate", RATE),
            *("--mixed_precision", PRECISION[work.dtype]),
            *("--seed", 0),
            *("--cache_dir", f"{folder}/cache"),
            *("--output_dir", f"{folder}/out"),
        )


def _run_ours(work: Work, steps: int) -> None:
    with TemporaryDirectory() as home:
        _run(
            work.device,
            *("-m", "adapterhub_cli", "train"),
            *("--base", work.base.path),
            *("--data", work.pictures),
            *("--name", "me/one"),
            *("--batch-size", 1),
            *("--steps", steps),
            *("--rank", work.rank),
            *("--learning-rate", RATE),
            *("--seed", 0),
            *("--set", f'base.device="{work.device}"'),
            *("--set", f'base.dtype="{work.dtype}"'),
            *("--set", 'adapters.0.network.targets=["attn"]'),
            ADAPTERHUB_HOME=home,
        )


def _run(device: str, *words: object, **environment: str) -> None:
    """Run Python with some words, without the network, and on the CPU even where there is a GPU."""
    environment["HF_HUB_OFFLINE"] = "1"
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, *map(str, words)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}\n{done.stderr[-2000:]}")
