"""How often each timestep is trained: a table of probabilities, and the draw from it.

A distribution is over u from 0 (least noise) to 1, spread over the range of timesteps that is trained. The
probability of a timestep is the exact mass of its share of u, and one uniform number decides a draw.
"""

import math

import torch
from torch import Tensor

DISTRIBUTIONS = ("uniform", "logit_normal", "cosmap")


def timestep_probabilities(
    count: int,
    distribution: str = "uniform",
    *,
    first: int = 0,
    last: int | None = None,
    location: float = 0.0,
    scale: float = 1.0,
) -> Tensor:
    """Return how probable each timestep is.

    - `uniform`: all of the range alike.
    - `logit_normal`: u = sigmoid(location + scale x normal); what other trainers call sigmoid is location 0.
    - `cosmap`: u = 1 - 1 / (tan(pi / 2 w) + 1) with w uniform.

    The last two are those of Esser et al., "Scaling rectified flow transformers for high-resolution image
    synthesis", 2024 (arXiv 2403.03206), section 3.1.

    Args:
        count: Timesteps of the noise schedule.
        distribution: One of `DISTRIBUTIONS`.
        first: Lowest timestep that is trained.
        last: Highest one; None means the last of the schedule.
        location: Of `logit_normal`: above 0 leans to much noise.
        scale: Of `logit_normal`: below 1 keeps to the middle.

    Returns:
        `(count,)`, float64, with sum 1.

    Example:
        >>> timestep_probabilities(4, first=1, last=2).tolist()
        [0.0, 0.5, 0.5, 0.0]
    """
    last = count - 1 if last is None else last
    edges = torch.linspace(0, 1, last - first + 2, dtype=torch.float64)
    if distribution == "logit_normal":
        edges = torch.special.ndtr((torch.logit(edges) - location) / scale)
    elif distribution == "cosmap":
        edges = torch.atan2(edges, 1 - edges) * (2 / math.pi)
    probabilities = torch.zeros(count, dtype=torch.float64)
    probabilities[first : last + 1] = edges.diff()
    return probabilities


def timestep_at(probabilities: Tensor, uniform: float) -> int:
    """Return the timestep that a uniform number stands for: the least whose cumulated probability exceeds it.

    Args:
        probabilities: From `timestep_probabilities`.
        uniform: From 0 to below 1.

    Example:
        >>> timestep_at(timestep_probabilities(1000), 0.25)
        250
    """
    cumulated = probabilities.cumsum(0)
    place = int(torch.searchsorted(cumulated, uniform, right=True))
    # The sum may round to a little below 1, and timesteps of probability 0 must not be reached.
    return min(place, int(probabilities.nonzero()[-1]))
