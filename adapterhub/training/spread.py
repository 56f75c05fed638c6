"""One adapter that several processes train: each has some samples of every pass, and all add up."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adapterhub.training.processes import Processes
from adapterhub.training.stopping import Stop


class Spread:
    """The part of this process in the training of one adapter.

    All processes take the same step: gradients are summed, and what is summed is the same bits everywhere.
    Sums of parts are rounded otherwise than the sum of all, so that the adapter is that of one process but
    for the last bits.

    Args:
        processes: That train it.
        stop: Heard in this process; they stop together, after the step that is under way.
    """

    def __init__(self, processes: Processes, stop: Stop) -> None:
        self._processes, self._stop = processes, stop
        self.is_stopped = False

    def bounds(self, count: int) -> tuple[int, int]:
        """Return the first of a pass's samples that are this process's, and the one after the last.

        Args:
            count: Of the pass; those of a short one may leave a process without any.
        """
        launch = self._processes.launch
        return count * launch.index // launch.count, count * (launch.index + 1) // launch.count

    def add_up(self, gradients: Sequence[Tensor], loss: float) -> float:
        """Sum gradients over all processes, in place, and return the sum of their losses.

        Args:
            gradients: Of this process's samples, each sample counted as in the whole pass.
            loss: Likewise.

        Raises:
            OtherProcessError: Another process failed or died.
        """
        told = torch.tensor([loss, float(self._stop.is_asked)], dtype=torch.float64)
        self._processes.add_up(told)
        flat = torch.cat([gradient.flatten() for gradient in gradients]).cpu()
        self._processes.add_up(flat)
        for gradient, summed in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
        ):
            gradient.copy_(summed.view_as(gradient))
        self.is_stopped = self.is_stopped or bool(told[1])
        return float(told[0])
