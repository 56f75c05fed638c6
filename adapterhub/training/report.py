"""The report of one adapter's training: one HTML file that needs nothing else."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from adapterhub.training.dataset import Dataset
from adapterhub.training.efficiency import Efficiency
from adapterhub.training.loss_chart import Points, loss_chart
from adapterhub.training.status import thinned

NAME = "report.html"
LINE = 300
"""So many points the curve of the training loss has at most."""
SIDE = 256
"""Of the pictures in it, in pixels at most."""
QUALITY = 85
SCORES = {"clip_t": "CLIP-T", "clip_i": "CLIP-I", "dino": "DINO"}

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2430; --soft: #5b6472; --line: #dde1e7;
  --card: #f5f7f9; --trained: #2f6fb3; --measured: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181e; --ink: #e4e8ee; --soft: #9aa4b2;
  --line: #2c343f; --card: #1c222a; --trained: #6cabec; --measured: #f0975a; } }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.soft, figcaption { color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; padding: 0; }
.tile { background: var(--card); border-radius: .4rem; padding: .5rem .9rem; }
.tile b { display: block; font-size: 1.15rem; }
svg { width: 100%; height: auto; } svg .grid { stroke: var(--line); }
svg .axis { fill: var(--soft); font-size: 12px; }
polyline { fill: none; stroke-width: 1.6; } polyline.trained { stroke: var(--trained); }
polyline.raw { opacity: .4; stroke-width: 1; } polyline.mean { stroke-width: 2.2; }
summary { cursor: pointer; } summary h2 { display: inline-block; margin-bottom: .25rem; }
polyline.measured { stroke: var(--measured); stroke-width: 2.2; } circle.measured { fill: var(--measured); }
circle.best { stroke: var(--ink); stroke-width: 2; }
.key::before { content: ""; display: inline-block; width: 1.4em; height: .2em; margin: 0 .4em .2em 0; }
.key { margin-right: 1.5em; } .key.trained::before { background: var(--trained); }
.key.measured::before { background: var(--measured); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; font-weight: normal;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td { overflow-wrap: anywhere; } .samples td, .samples th { border: 0; padding: .2rem; }
.samples td { min-width: 6rem; width: 10rem; }
.samples img { display: block; width: 100%; border-radius: .2rem; }
"""


@dataclass(frozen=True)
class Report:
    """What there is to say of one adapter's training.

    Attributes:
        name: The adapter.
        base: What it was trained on.
        losses: Of each step.
        measured: (step, loss on held-out pictures); step 0 is the base alone.
        best_step: Whose measured loss is the lowest; 0 for none.
        scores: Of the sample pictures; see `adapterhub.training.scores`.
        prompts: Of the sample pictures.
        samples: Pictures by step, one a prompt.
        config: The document that decides the weights.
        dataset: What was trained on.
        truncated: Captions that were longer than what is read.
        without_trigger: Captions that hold no trigger word.
        efficiency: Beside full fine-tuning.
        measures: Speed, memory and the like: names and values.
        environment: Libraries and machine.
        notes: What went wrong beside the training.
        error: Why it was frozen.
    """

    name: str
    base: str
    losses: Sequence[float]
    measured: Points
    best_step: int
    scores: Mapping[str, Points]
    prompts: Sequence[str]
    samples: Mapping[int, Sequence[Path]]
    config: bytes
    dataset: Dataset
    truncated: int
    without_trigger: int
    efficiency: Efficiency
    measures: Mapping[str, str]
    environment: Mapping[str, str]
    notes: Sequence[str] = ()
    error: str = ""


def report_html(report: Report) -> bytes:
    """Return the report as a page that loads nothing, and that dark and light screens can show.

    Raises:
        OSError: A sample picture cannot be read.
    """
    trained = [item for item in report.dataset.examples if not item.source.is_prior]
    tiles = {"steps": f"{len(report.losses)}", "pictures": f"{len(trained)}"}
    if report.losses:
        recent = report.losses[-max(len(report.losses) // 10, 1) :]
        tiles["training loss"] = f"{sum(recent) / len(recent):.4f}"
    if report.measured:
        tiles["validation loss"] = f"{report.measured[-1][1]:.4f}"
    tiles["trainable share"] = f"{report.efficiency.share:.2%}"
    sections = [
        f"<h1>{escape(report.name)}</h1><p class=soft>trained on {escape(report.base)}</p>",
        f"<p><b>It was frozen: {escape(report.error)}.</b></p>" if report.error else "",
        "".join(["<div class=tiles>", *(_tile(*tile) for tile in tiles.items()), "</div>"]),
        _losses(report),
        _samples(report),
        _scores(report.scores),
        _efficiency(report.efficiency),
        _data(report),
        _section("Notes", _list(report.notes)) if report.notes else "",
        _section("Speed and memory", _table(report.measures)),
        _folded("Config", _table(_flat(json.loads(report.config)))),
        _folded("Environment", _table(report.environment)),
    ]
    return page_html(report.name, sections)


def page_html(title: str, sections: Sequence[str]) -> bytes:
    """Return a page in the style of reports that loads nothing."""
    head = (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
    )
    return f"{head}<body>{''.join(sections)}</body></html>\n".encode()


def _losses(report: Report) -> str:
    chart = loss_chart(thinned(report.losses, LINE), report.measured, best_step=report.best_step)
    keys = '<span class="key trained">training loss, with its weights; thick: its running mean</span>'
    if report.measured:
        best = f"; the lowest at step {report.best_step}" if report.best_step else ""
        keys += (
            '<span class="key measured">validation loss: held-out pictures at fixed noise, without weights'
            f"; step 0 is the base alone{best}</span>"
        )
    return _section("Loss", f"<figure style='margin:0'>{chart}<figcaption>{keys}</figcaption></figure>")


def _samples(report: Report) -> str:
    if not report.samples:
        return ""
    heads = "".join(f"<th>{escape(prompt)}</th>" for prompt in report.prompts)
    rows = [
        f"<tr><th>{f'step {step}' if step else 'base'}</th>"
        + "".join(f"<td>{picture_html(path, f'step {step}')}</td>" for path in paths)
        + "</tr>"
        for step, paths in report.samples.items()
    ]
    table = f"<table class=samples><tr><th></th>{heads}</tr>{''.join(rows)}</table>"
    return _section("Samples", f"<div class=scroll>{table}</div>")


def _scores(scores: Mapping[str, Points]) -> str:
    if not scores:
        return ""
    steps = sorted({step for points in scores.values() for step, _ in points})
    heads = "".join(f"<th class=number>{SCORES[name]}</th>" for name in scores)
    rows = [
        f"<tr><th>{f'step {step}' if step else 'base'}</th>"
        + "".join(f"<td class=number>{_number(dict(points).get(step))}</td>" for points in scores.values())
        + "</tr>"
        for step in steps
    ]
    said = (
        "<p class=soft>Mean cosines of embeddings: CLIP-T of samples and their prompts, CLIP-I and DINO of "
        "samples and real pictures of this adapter.</p>"
    )
    return _section("Scores", f"<table><tr><th></th>{heads}</tr>{''.join(rows)}</table>{said}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def picture_html(path: Path, told: str) -> str:
    """Return a picture, made small, as part of a page.

    Raises:
        OSError: It cannot be read.
    """
    buffer = io.BytesIO()
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=QUALITY)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(told)}" src="data:image/jpeg;base64,{content}">'


def _efficiency(cost: Efficiency) -> str:
    cells = "".join(
        f"<tr><th>{what}</th><td class=number>{own}</td><td class=number>{full}</td>"
        f"<td class=number>{share}</td></tr>"
        for what, own, full, share in cost.rows()
    )
    heads = "<tr><th></th><th class=number>adapter</th><th class=number>full fine-tuning</th><th></th></tr>"
    said = (
        "<p class=soft>Full fine-tuning would train every weight of the modules that this adapter changes, "
    )
    said += "with AdamW's two moments in float32.</p>"
    return _section("Parameter efficiency", f"<table>{heads}{cells}</table>{said}")


def _data(report: Report) -> str:
    dataset = report.dataset
    priors = sum(item.source.is_prior for item in dataset.examples)
    counts = {
        "trained pictures": len(dataset.examples) - priors,
        "pictures that keep a class": priors,
        "held out": len(dataset.held_out),
        "with a mask": sum(bool(item.mask or item.source.alpha_mask) for item in dataset.examples),
        "captions that were cut": report.truncated,
        "captions without a trigger word": report.without_trigger,
    }
    facts = {what: str(count) for what, count in counts.items()}
    facts["buckets"] = ", ".join(
        f"{width} x {height}: {count}" for (width, height), count in dataset.buckets.items()
    )
    said = (
        "<p class=soft>A picture that cannot be used ends a training before it begins: none is missing.</p>"
    )
    return _section("Data", _table(facts) + _list(dataset.notes) + said)


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}"


def _folded(title: str, content: str) -> str:
    return f"<details><summary><h2>{escape(title)}</h2></summary>{content}</details>"


def _tile(what: str, value: str) -> str:
    return f"<div class=tile><b>{escape(value)}</b><span class=soft>{escape(what)}</span></div>"


def _table(rows: Mapping[str, str]) -> str:
    cells = "".join(
        f"<tr><th>{escape(what)}</th><td>{escape(value)}</td></tr>" for what, value in rows.items()
    )
    return f"<div class=scroll><table>{cells}</table></div>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _flat(table: Any, prefix: str = "") -> dict[str, str]:
    """Return a document's values by their dotted keys; what is empty is left out."""
    if isinstance(table, Mapping):
        rows: dict[str, str] = {}
        for key, value in table.items():
            rows |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return rows
    if isinstance(table, list) and any(isinstance(item, Mapping) for item in table):
        return _flat({str(number): item for number, item in enumerate(table)}, prefix)
    if table in ("", [], None):
        return {}
    return {prefix: ", ".join(map(str, table)) if isinstance(table, list) else str(table)}
