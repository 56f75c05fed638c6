"""Settings for common kinds of training, which stand below `[defaults]` and what an adapter says itself."""

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "style": {
        "kind": "style",
        "data": {"flip": True},
        "network": {"rank": 32, "alpha": 16.0},
        "objective": {"noise_offset": 0.0357},
    },
    "character": {
        "kind": "subject",
        "steps": 1000,
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
