"""A chart of losses over steps as SVG, in colours that its page decides."""

import math
from collections.abc import Sequence
from html import escape
from typing import TypeAlias

Points: TypeAlias = Sequence[tuple[int, float]]

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 40
TICKS = 5
MEAN_PART = 10


def loss_chart(curve: Points, measured: Points = (), *, best_step: int = 0) -> str:
    """Return `<svg>` with the training loss as a line and the validation loss as a line with dots.

    The classes `grid`, `axis`, `trained raw`, `trained mean`, `measured` and `best` are for the page's style
    sheet.

    Args:
        curve: (step, loss) of the training; no number may be missing.
        measured: (step, loss) of the held-out pictures.
        best_step: Of `measured`; it is marked. 0 marks none.
    """
    points = [*curve, *measured]
    if not points:
        return ""
    ticks = _ticks(min(loss for _, loss in points), max(loss for _, loss in points))
    low, high = ticks[0], ticks[-1]
    last = max(step for step, _ in points) or 1

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(loss: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    def line(kind: str, line_points: Points) -> str:
        places = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in line_points)
        return f'<polyline class="{kind}" points="{places}"/>'

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="loss by step">']
    for tick in ticks:
        at = y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text class="axis" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:.3g}</text>'
        )
    for tick in sorted({round(last * number / 4) for number in range(5)}):
        parts.append(
            f'<text class="axis" x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" '
            f'text-anchor="middle">{tick}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">step</text>')
    parts += [
        line("trained raw", curve),
        line("trained mean", _running_mean(curve)),
        line("measured", measured),
    ]
    for step, loss in measured:
        kind = "measured best" if step == best_step else "measured"
        told = escape(f"step {step}: {loss:.4g}")
        parts.append(
            f'<circle class="{kind}" cx="{x(step):.1f}" cy="{y(loss):.1f}" r="3.5">'
            f"<title>{told}</title></circle>"
        )
    return "".join([*parts, "</svg>"])


def _running_mean(curve: Points) -> list[tuple[int, float]]:
    """Return each point as the mean of those around it, a tenth of the curve."""
    reach = len(curve) // (2 * MEAN_PART)
    means: list[tuple[int, float]] = []
    for number, (step, _) in enumerate(curve):
        near = [loss for _, loss in curve[max(number - reach, 0) : number + reach + 1]]
        means.append((step, sum(near) / len(near)))
    return means


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers that enclose a range."""
    span = (high - low) or abs(high) or 1.0
    rough = span / (TICKS - 1)
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [number * step for number in range(first, last + 1)]
