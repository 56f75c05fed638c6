"""Draw the plots of the documentation from the committed results of the benchmarks.

    python docs/plots.py

The checks compare what it would draw with what is there. Text stays text, in the reader's sans-serif font;
the ground is transparent, and the colours can be read on white and on black.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "pictures" / "plots"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
OURS, THEIRS, INK = "#3d8fd6", "#d9822b", "#7d8590"
SHADES = (INK, THEIRS, OURS, "#8a63d2")
STYLE = {
    "svg.hashsalt": "adapterhub",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that every machine measures texts alike
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def plots() -> dict[str, str]:
    """Return all plots as SVG, by file name."""
    with mpl.rc_context(STYLE):
        drawn = {
            "merging.svg": merging(),
            "peers.svg": peers(),
            "ranks.svg": ranks(),
            "switching.svg": switching(),
        }
        return {name: _svg(figure) for name, figure in drawn.items()}


def ranks() -> Figure:
    """Return the loss on held-out pictures over the steps, by rank."""
    figure, axes = _figure(3.4)
    curves: Mapping[str, Sequence[tuple[int, float]]] = _result("ranks")["held-out loss"]
    for (rank, curve), colour in zip(curves.items(), SHADES, strict=True):
        axes.plot(*zip(*curve, strict=True), color=colour, marker="o", markersize=4, label=f"rank {rank}")
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss on held-out pictures")
    axes.legend(labelcolor=INK)
    return figure


def switching() -> Figure:
    """Return the time of a switch by the number of adapters, on the mini base."""
    result = _result("runtime-mini")
    values = _values(result)
    known = {6: "switch with 6, s", result["registered"]: "switch, s", 1000: "switch with 1000, s"}
    times = [1000 * values[name] for name in known.values()]
    theirs = 1000 * values["switch, diffusers, s"]
    figure, axes = _figure(3.2)
    axes.plot([*known], times, color=OURS, marker="o", label="AdapterHub")
    axes.plot(result["registered"], theirs, color=THEIRS, marker="s", linestyle="none", label="diffusers")
    for number, time in [*zip(known, times, strict=True), (result["registered"], theirs)]:
        axes.annotate(
            f"{time:.0f} ms", (number, time), (0, 8), textcoords="offset points", ha="center", color=INK
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(5, 1500)
    axes.set_xlim(4, 2000)
    axes.set_xticks([*known], [f"{number:,}" for number in known], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_yticks([10, 100, 1000], ["10", "100", "1,000"])
    axes.set_xlabel("adapters that were loaded before")
    axes.set_ylabel("one switch, ms")
    axes.legend(labelcolor=INK, loc="upper right")
    return figure


def merging() -> Figure:
    """Return how many times longer PEFT's merge by SVD takes, by the shape of the layer."""
    prefix, suffix = "svd merge ", ": PEFT's svd, times ours"
    found = {
        name.removeprefix(prefix).removesuffix(suffix): value
        for name, value in _values(_result("algebra")).items()
        if name.startswith(prefix) and name.endswith(suffix)
    }
    names = ["all 722 layers of SDXL" if name.startswith("of ") else name for name in found]
    return _bars(names, [*found.values()], "PEFT's time / AdapterHub's, merging ranks 32 and 64 to 32")


def peers() -> Figure:
    """Return all committed ratios against other tools, each with its bound."""
    mini, full, steps, algebra, registry = (
        {row["measure"]: row for row in _result(name)["measures"]}
        for name in ("runtime-mini", "runtime-full", "steps-mini", "algebra", "registry")
    )
    merge = algebra["svd merge of 722 layers: PEFT's svd, times ours"]
    rows = {
        "diffusers: switch, mini base": _times(mini["switch: theirs / ours"]),
        "diffusers: switch, SDXL's size": _times(full["switch: theirs / ours"]),
        "diffusers: cold adapter, mini base": _times(mini["cold: theirs / ours"]),
        "diffusers: cold adapter, SDXL's size": _times(full["cold: theirs / ours"]),
        "PEFT: what 3 unfused add to a step": _inverse(steps["what low-rank adds / what PEFT adds"]),
        "PEFT: merge by SVD, SDXL's size": (merge["value"], float(merge["bound"].split()[-1])),
        "MLflow: search, one word": _inverse(registry["one-word search, part of MLflow's"]),
        "MLflow: search, two words": _inverse(registry["two-word search, part of MLflow's"]),
        "MLflow: search by tag": _inverse(registry["tag, part of MLflow's"]),
    }
    values = [value for value, _ in rows.values()]
    return _bars(
        [*rows], values, "their time / AdapterHub's; | marks the bound", [bound for _, bound in rows.values()]
    )


def _times(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["value"], row["bound"]


def _inverse(row: Mapping[str, Any]) -> tuple[float, float]:
    return 1 / row["value"], 1 / row["bound"]


def _bars(names: Sequence[str], values: Sequence[float], what: str, bounds: Sequence[float] = ()) -> Figure:
    figure, axes = _figure(0.9 + 0.32 * len(names))
    places = range(len(names))
    colours = [OURS] * len(names)
    for place, bound in enumerate(bounds):
        axes.plot([bound, bound], [place - 0.42, place + 0.42], color=INK, linewidth=2)
        if values[place] < bound:
            colours[place] = THEIRS
    axes.barh(places, values, color=colours, height=0.6, zorder=0)
    for place, value in enumerate(values):
        axes.annotate(
            f"{value:.{0 if value >= 10 else 1}f}x",
            (max(value, *bounds[place : place + 1], 1), place),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1, 3 * max(values))
    ticks = [tick for tick in (1, 10, 100, 1000) if tick <= 3 * max(values)]
    axes.set_xticks(ticks, [f"{tick:,}x" for tick in ticks])
    axes.set_xlabel(what)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    content = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    lines = content.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _values(result: Any) -> dict[str, float]:
    return {row["measure"]: row["value"] for row in result["measures"] if not isinstance(row["value"], str)}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in plots().items():
        (FOLDER / name).write_text(text)
