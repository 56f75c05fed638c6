"""What one adapter is trained on: pictures with captions, and the manifest that says exactly which."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from adapterhub.errors import ConfigError, DatasetError, SettingError, TrainingPictureError
from adapterhub.training.buckets import Buckets, Placement, Size
from adapterhub.training.captions import CaptionRules
from adapterhub.training.folder import MISSING_CAPTIONS, Findings, list_captioned
from adapterhub.training.pictures import SUFFIXES, ground_colour, open_mask, open_picture, picture_tensor


@dataclass(frozen=True)
class Source:
    """A folder of pictures, and how they are to be used.

    Attributes:
        folder: Where they are.
        repeats: How often each is shown an epoch.
        flip: Whether a picture may be shown with left and right changed over.
        is_prior: Whether they keep a class as it is, and do not show what is to be learnt.
        masks: Folder of masks, each called as its picture is but for the suffix; white is learnt.
        alpha_mask: Whether what is transparent is masked.
        ground: What lies under transparent parts: a colour's name or `#rrggbb`.
        missing_captions: What a picture without a caption is: an `error`, `empty`, or called by its
            `filename`.
        rules: How captions become what the text encoders read.

    Raises:
        ConfigError: Something in it is wrong; `problems` lists everything.
    """

    folder: Path
    repeats: int = 1
    flip: bool = False
    is_prior: bool = False
    masks: Path | None = None
    alpha_mask: bool = False
    ground: str = "white"
    missing_captions: str = "error"
    rules: CaptionRules = field(default_factory=CaptionRules)

    def __post_init__(self) -> None:
        problems: list[str] = []
        if self.repeats < 1:
            problems.append(f"repeats must be at least 1, not {self.repeats}")
        if self.masks is not None and self.alpha_mask:
            problems.append("masks and alpha_mask exclude each other")
        try:
            ground_colour(self.ground)
        except SettingError as exc:
            problems.append(str(exc))
        if self.missing_captions not in MISSING_CAPTIONS:
            given = f'not "{self.missing_captions}"'
            problems.append(f"missing_captions must be one of {', '.join(MISSING_CAPTIONS)}, {given}")
        if problems:
            raise ConfigError(f"the use of {self.folder}", problems)


@dataclass(frozen=True)
class Example:
    """One picture and its caption.

    Attributes:
        path: The file.
        name: Its path relative to the source's folder, with slashes.
        caption: What it shows, before the source's rules.
        sha256: Digest of the file's bytes.
        size: Width and height, upright.
        source: How it is used.
        mask: File of its mask; None for none, or for its own transparency.
        mask_sha256: Digest of that file's bytes.
        placement: How it comes into its bucket; None if no buckets were given.
    """

    path: Path
    name: str
    caption: str
    sha256: str
    size: Size
    source: Source
    mask: Path | None = None
    mask_sha256: str = ""
    placement: Placement | None = None

    def row(self) -> dict[str, Any]:
        """Return what the manifest says of it; what is as usual goes without saying."""
        source, mask = self.source, "alpha" if self.source.alpha_mask else self.mask_sha256
        unusual = {
            "repeats": source.repeats if source.repeats != 1 else None,
            "flip": source.flip,
            "prior": source.is_prior,
            "mask": mask,
            "ground": source.ground if source.ground != "white" else None,
            "bucket": self.placement and list(self.placement.bucket),
        }
        usual = {"file": self.name, "sha256": self.sha256, "caption": self.caption}
        return usual | {name: value for name, value in unusual.items() if value}

    def load(self, *, is_flipped: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the picture in its bucket's size, as `picture_tensor` has it, and its mask, or None.

        Raises:
            TrainingPictureError: A file has changed since the data set was read, or is gone.
            ValueError: The data set was read without buckets.
        """
        if self.placement is None:
            raise ValueError("read the data set with buckets to load its pictures")
        picture = open_picture(self.path, ground=self.source.ground, sha256=self.sha256)
        mask = picture.alpha if self.source.alpha_mask else None
        if self.mask is not None:
            mask = open_mask(self.mask, picture.size, sha256=self.mask_sha256).colours
        pixels = picture_tensor(self.placement.apply(picture.colours, is_flipped=is_flipped))
        if mask is None:
            return pixels, None
        return pixels, picture_tensor(self.placement.apply(mask, is_flipped=is_flipped))


@dataclass(frozen=True)
class Dataset:
    """The examples of one adapter: source by source, in the order of their names.

    Attributes:
        folder: Of the first source.
        examples: All that are trained on.
        notes: What was done to files that a person should know.
        held_out: Those that are only looked at; see `hold_out`.
    """

    folder: Path
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    held_out: tuple[Example, ...] = ()

    @property
    def buckets(self) -> Mapping[Size, int]:
        """How many pictures each bucket has."""
        found = Counter(item.placement.bucket for item in self.examples if item.placement)
        return dict(sorted(found.items()))

    @property
    def shown(self) -> Mapping[Size, int]:
        """How many pictures of each bucket an epoch shows, with their repeats."""
        found: Counter[Size] = Counter()
        for item in self.examples:
            if item.placement:
                found[item.placement.bucket] += item.source.repeats
        return found

    def manifest(self) -> bytes:
        """Return the canonical JSON of file names, digests and captions; its SHA-256 is in the lineage."""
        rows = [item.row() for item in self.examples]
        rows += [{**item.row(), "held_out": True} for item in self.held_out]
        return (json.dumps({"format": 1, "pictures": rows}, indent=1, ensure_ascii=False) + "\n").encode()


def read_dataset(folder: Path) -> Dataset:
    """Read one folder of pictures; see `read_sources`."""
    return read_sources([Source(folder)])


def read_sources(sources: Sequence[Source], *, buckets: Buckets | None = None) -> Dataset:
    """Read pictures, captions and masks of all sources.

    Every file is decoded once, so that a damaged one is found before training starts.

    Args:
        sources: At least one that is no prior.
        buckets: What sizes the pictures are trained in; None leaves that open.

    Raises:
        DatasetError: A folder is missing or has no pictures, or pictures lack captions or masks, or cannot be
        used;
            `problems` lists every one of them.
    """
    findings = Findings()
    examples: list[Example] = []
    for source in sources:
        found = Findings()
        examples += _read_source(source, buckets, found)
        # With one source, the message names its folder already.
        prefix = "" if len(sources) == 1 else f"{source.folder}: "
        findings.problems.extend(prefix + problem for problem in found.problems)
        findings.notes.extend(prefix + note for note in found.notes)
    if all(source.is_prior for source in sources):
        findings.problems.append("no pictures show what is to be learnt: all of them are prior")
    if findings.problems:
        raise DatasetError(sources[0].folder, findings.problems)
    return Dataset(sources[0].folder, tuple(examples), tuple(findings.notes))


def load_picture(path: Path, size: int, *, sha256: str | None = None) -> Tensor:
    """Return a picture as `(3, size, size)` float32 in [-1, 1]: upright, on white, centre-cropped.

    Raises:
        TrainingPictureError: As `open_picture`.
    """
    colours = open_picture(path, sha256=sha256).colours
    return picture_tensor(ImageOps.fit(colours, (size, size), Image.Resampling.LANCZOS))


def _read_source(source: Source, buckets: Buckets | None, findings: Findings) -> list[Example]:
    examples: list[Example] = []
    first: dict[str, str] = {}
    captioned = list_captioned(
        source.folder, findings, missing_captions=source.missing_captions, skip=source.masks
    )
    for item in captioned:
        try:
            picture = open_picture(item.path, ground=source.ground)
        except TrainingPictureError as exc:
            findings.problems.append(f"{item.name} {exc.reason}")
            continue
        findings.notes.extend(f"{item.name} {note}" for note in picture.notes)
        if picture.sha256 in first:
            findings.notes.append(f"{item.name} is the same file as {first[picture.sha256]}")
        first.setdefault(picture.sha256, item.name)
        if source.alpha_mask and picture.alpha and picture.alpha.getextrema()[1] == 0:
            findings.problems.append(f"{item.name} is transparent all over, so it leaves nothing to learn")
            continue
        mask, mask_sha256 = None, ""
        if source.masks is not None:
            mask = _mask_file(source.masks, item.name)
            if mask is None:
                findings.problems.append(f"{item.name} has no mask in {source.masks}")
                continue
            try:
                mask_sha256 = open_mask(mask, picture.size).sha256
            except TrainingPictureError as exc:
                findings.problems.append(f"the mask {mask.name} of {item.name} {exc.reason}")
                continue
        if item.caption is None:
            continue
        examples.append(
            Example(
                path=item.path,
                name=item.name,
                caption=item.caption,
                sha256=picture.sha256,
                size=picture.size,
                source=source,
                mask=mask,
                mask_sha256=mask_sha256,
                placement=buckets.place(*picture.size) if buckets else None,
            )
        )
    return examples


def _mask_file(masks: Path, name: str) -> Path | None:
    stem = masks / Path(name).with_suffix("")
    files = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    return next((file for file in files if file.is_file()), None)
