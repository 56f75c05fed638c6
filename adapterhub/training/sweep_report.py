"""What a sweep looks like: a contact sheet and a page, a row for each candidate."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from adapterhub.sheet import contact_sheet, save_picture
from adapterhub.training.plan import GroupPlan
from adapterhub.training.report import page_html, picture_html
from adapterhub.training.samples import CELL, sample_files
from adapterhub.training.status import AdapterStatus
from adapterhub_registry.files import write_atomically

SHEET, PAGE = "sweep.png", "sweep.html"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each key of a grid with the least of its end that tells it from the others.

    Example:
        >>> short_names(["network.rank", "data.0.path", "seed"])
        {'network.rank': 'rank', 'data.0.path': 'path', 'seed': 'seed'}
    """
    ends = {key: key.rpartition(".")[2] for key in keys}
    return {key: end if list(ends.values()).count(end) == 1 else key for key, end in ends.items()}


def state_text(status: AdapterStatus) -> str:
    """Return what became of a candidate, for people."""
    if status.version:
        return f"kept as {status.name}@{status.version}"
    return status.outcome or ("failed" if status.error else "in training")


def write_sheet(directory: Path, statuses: Sequence[AdapterStatus], group: GroupPlan) -> Path | None:
    """Write a sheet of each candidate's last sample pictures, all of the same prompts and seeds.

    Args:
        directory: Of the run.
        statuses: In the order of the rows.
        group: The sweep.

    Returns:
        The file; None if no prompts are drawn, or not the same ones for all.

    Raises:
        OutputError: It cannot be written.
    """
    prompts = {item.config.validation.prompts for item in group.items}
    drawn = _last_samples(directory, group)
    shown = [one for one in statuses if one.label in drawn]
    if len(prompts) != 1 or not shown:
        return None
    rows: list[list[Image.Image]] = []
    for status in shown:
        rows.append([])
        for file in drawn[status.label]:
            with Image.open(file) as picture:
                rows[-1].append(picture.convert("RGB"))
    cell = min(max(max(rows[0][0].size), CELL[0]), CELL[1])
    labels = [_row_label(status) for status in shown]
    sheet = contact_sheet(rows, column_labels=list(next(iter(prompts))), row_labels=labels, cell=cell)
    path = directory / SHEET
    save_picture(sheet, path)
    return path


def write_report(directory: Path, statuses: Sequence[AdapterStatus], group: GroupPlan) -> Path:
    """Write the page: what was tried, how it went, the pictures, and a link to each candidate's report.

    Raises:
        OutputError: It cannot be written.
        OSError: A sample picture cannot be read.
    """
    drawn = _last_samples(directory, group)
    names = short_names([*statuses[0].values])
    adapters = {one.name for one in statuses}
    rows = [
        "<tr><th>"
        + (f"<a href='{escape(one.report)}'>{escape(one.label)}</a>" if one.report else escape(one.label))
        + "</th>"
        + "".join(f"<td>{escape(str(one.values[key]))}</td>" for key in names)
        + f"<td class=number>{_loss_text(one)}</td><td class=number>{one.step}/{one.steps}</td>"
        + f"<td>{escape(one.error or state_text(one))}</td>"
        + "".join(f"<td>{picture_html(path, one.label)}</td>" for path in drawn.get(one.label, []))
        + "</tr>"
        for one in statuses
    ]
    tried = "".join(f"<th>{escape(name)}</th>" for name in names.values())
    head = f"<th></th>{tried}<th class=number>validation loss</th><th class=number>step</th><th></th>"
    sections = [
        f"<h1>Sweep of {escape(', '.join(sorted(adapters)))}</h1>",
        f"<p class=soft>{len(statuses)} candidates. "
        "The loss is that on held-out pictures at each candidate's last step; those that came farthest stand "
        "first.</p>",
        f"<div class=scroll><table class=samples><tr>{head}</tr>{''.join(rows)}</table></div>",
    ]
    path = directory / PAGE
    write_atomically(path, page_html(f"Sweep of {', '.join(sorted(adapters))}", sections))
    return path


def _last_samples(directory: Path, group: GroupPlan) -> Mapping[str, Sequence[Path]]:
    found: dict[str, Sequence[Path]] = {}
    for item in group.items:
        prompts = item.config.validation.prompts
        files: dict[int, list[Path]] = sample_files(directory / item.stem / "samples", len(prompts) or 1)
        if prompts and files:
            found[item.label] = files[max(files)]
    return found


def _row_label(status: AdapterStatus) -> str:
    names = short_names([*status.values])
    told = [f"{names[key]} {_value_text(value)}" for key, value in status.values.items()]
    tried = "\n".join(told).replace("_", " ")
    loss = f"\nloss {_loss_text(status)}" if status.last_measured is not None else ""
    return f"{tried}\nstep {status.step}{loss}\n{state_text(status)}"


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _loss_text(status: AdapterStatus) -> str:
    return "" if status.last_measured is None else f"{status.last_measured:.5f}"
