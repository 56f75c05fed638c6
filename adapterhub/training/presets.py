"""Settings for common kinds of training; they stand below `[defaults]` and what an adapter says itself.

- `style`
    - rank 32, as kohya's guide for SDXL has it: a style changes every layer a little.
    - noise_offset 0.0357, as kohya's guide has it of SDXL's base: a style may be darker or lighter than
      what is learnt from plain noise.
    - flip: a style has no left and right, and flipping makes two pictures of one.
- `character`
    - rank 8, as diffusers' advanced script for subjects has it: what identifies one subject needs less, and
      less room keeps fewer of the pictures' backgrounds.
    - 1000 steps, likewise.
    - no flip: a scar or a parting has a side.
- `prodigy`
    - learning_rate 1 is a factor of the rate that Prodigy finds (Mishchenko and Defazio 2023, arXiv
      2306.06101); any other value works against it.
    - betas 0.9 and 0.99: its estimate follows the second moment, and 0.999 is too slow for short trainings.
    - a constant schedule without warmup: it warms up by itself, and a falling rate would count twice.
"""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "style": {
        "kind": "style",
        "data": {"flip": True},
        "network": {"rank": 32},
        "objective": {"noise_offset": 0.0357},
    },
    "character": {
        "kind": "subject",
        "steps": 1000,
        "data": {"flip": False},
        "network": {"rank": 8},
    },
    "prodigy": {
        "optimizer": {
            "name": "prodigy",
            "learning_rate": 1.0,
            "betas": [0.9, 0.99],
            "schedule": "constant",
            "warmup": 0.0,
        },
    },
}
