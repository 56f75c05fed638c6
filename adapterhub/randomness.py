"""Random numbers that depend on what they are for, and on nothing else.

Every draw names its purpose with a key, for example `("noise", step, sample)`. The key and the seed are
hashed into the 128-bit key of a Philox counter (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", 2011), so that a draw does not depend on which draws came before it, on worker counts or on cache state.
"""

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SCHEME = "philox-sha256-v1"
"""Name of the mapping from keys to numbers; it changes if the numbers ever do."""


def keyed_generator(seed: int, *key: str | int) -> "np.random.Generator":
    """Return numpy's generator for one purpose.

    Args:
        seed: The run's seed, any integer.
        key: What the numbers are for; strings and integers, in order.

    Returns:
        A fresh generator: the same seed and key always give the same numbers.

    Example:
        >>> a = keyed_generator(7, "noise", 3).integers(1000)
        >>> a == keyed_generator(7, "noise", 3).integers(1000)
        np.True_
    """
    import numpy as np

    text = json.dumps([SCHEME, seed, *key], separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def keyed_normal(shape: tuple[int, ...], seed: int, *key: str | int) -> "Tensor":
    """Return standard normal noise for one purpose.

    Args:
        shape: Shape of the result.
        seed: The run's seed.
        key: What the numbers are for.

    Returns:
        A float32 tensor on the CPU.

    Example:
        >>> keyed_normal((2, 3), 7, "noise", 0).shape
        torch.Size([2, 3])
    """
    import numpy as np
    import torch

    return torch.from_numpy(keyed_generator(seed, *key).standard_normal(shape, dtype=np.float32))
