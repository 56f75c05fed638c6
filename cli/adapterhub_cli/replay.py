"""`adapterhub replay`: make a picture again from its own record."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, picture_path, print_fields, progress, say


@click.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="By default PICTURE with .replay before its suffix."
)
@click.option("--image", type=click.Path(path_type=Path), help="The picture that PICTURE started from.")
@click.option("--mask", type=click.Path(path_type=Path), help="The mask that it was made with.")
@click.option("--control", type=click.Path(path_type=Path), help="The picture that steered it.")
@data_options
def replay(
    picture: Path,
    out: Path | None,
    image: Path | None,
    mask: Path | None,
    control: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make PICTURE again: the same bytes, or an error that says what differs.

    PICTURE is a PNG, JPEG or WebP. Where it does not keep every pixel, the new one is encoded alike first.

    \b
    Examples:
      adapterhub replay heart.png
      adapterhub replay heart.png --out again.png
      adapterhub replay castle-ink.png --image castle.png
    """
    from adapterhub.runtime.replay import replay as make_again
    from adapterhub_registry.encoding import picture_format
    from adapterhub_registry.files import write_atomically
    from adapterhub_registry.record import picture_with_record
    from adapterhub_registry.settings import RegistrySettings, ensure_home

    ensure_home(RegistrySettings.from_environment().home)
    out = picture_path(out or picture.with_suffix(f".replay{picture.suffix or '.png'}"))
    result = make_again(picture, image=image, mask=mask, control=control, on_step=progress("replay"))
    encoding, name = result.encoding, picture_format(out)
    quality = encoding.quality if encoding.format == name else None
    write_atomically(out, picture_with_record(result.image, result.record, name, quality=quality))
    say("every pixel is the same")
    for setting, (then, now) in result.differences.items():
        say(f"although {setting} was {then} then and is {now} now")
    print_fields(
        {"file": str(out), "seed": result.record.seed, "prompt": result.record.prompt},
        key="file",
        as_json=as_json,
        quiet=quiet,
    )
