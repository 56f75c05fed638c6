"""`adapterhub generate`: make pictures."""

import json
from pathlib import Path

import click

from adapterhub_cli.composing_options import ComposingOptions, composing_options
from adapterhub_cli.output import data_options, picture_path, print_rows, progress
from adapterhub_cli.start_options import StartOptions, start_options


@click.command()
@click.option(
    "-p", "--prompt", "prompts", multiple=True, required=True, help="What to draw; repeat for more."
)
@click.option("-n", "--negative", help="What to avoid.")
@click.option("--base", default="mini", show_default=True, help="A name, a directory, or a hub id.")
@composing_options
@click.option("--seed", type=int, help="Seed of the first picture; drawn if left out.")
@click.option("--count", type=int, default=1, show_default=True, help="Pictures of each prompt.")
@click.option("--steps", type=int, default=30, show_default=True, help="Denoising steps.")
@click.option("--guidance", type=float, default=5.0, show_default=True, help="Classifier-free guidance.")
@click.option(
    "--scheduler", help="euler_ancestral, dpmpp_2m_karras, ddim, lcm, ...; by default the base's own."
)
@click.option("--width", type=int, help="Pixels; by default what the base was trained for.")
@click.option("--height", type=int, help="Pixels.")
@start_options
@click.option("--device", help="cpu, cuda or mps; by default the best there is.")
@click.option("--dtype", help="float32, float16 or bfloat16; by default float32 on the CPU, else float16.")
@click.option("--config", help="A directory with the configs that a single file is read with; else SDXL's.")
@click.option(
    "--offload",
    type=click.Choice(["none", "model", "sequential"]),
    default="none",
    show_default=True,
    help="Keep the base on the host, and bring each model, or each layer, to the device.",
)
@click.option("--quantize", help="Quantize the UNet, such as torchao-int8; needs the extra quantized.")
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .jpg or .webp; several get -1, -2, ...")
@click.option(
    "--quality", type=click.IntRange(1, 100), help="Of a JPEG [default: 95], or a WebP that is lossy."
)
@data_options
def generate(
    prompts: tuple[str, ...],
    negative: str | None,
    base: str,
    composing: ComposingOptions,
    seed: int | None,
    count: int,
    steps: int,
    guidance: float,
    scheduler: str | None,
    width: int | None,
    height: int | None,
    starting: StartOptions,
    device: str | None,
    dtype: str | None,
    config: str | None,
    offload: str,
    quantize: str | None,
    out: Path | None,
    quality: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make pictures; each carries the record that `adapterhub replay` reads.

    PNG is the default, and keeps every pixel; so does WebP without --quality.

    \b
    Examples:
      adapterhub generate -p "a red heart" --seed 7 --out heart.png
      adapterhub generate -p "a cat" -p "a rocket" --count 4 --out pets.webp
      adapterhub generate -p "inkwash corgi" --use me/ink@prod:0.8 --use me/corgi
      adapterhub generate -p "inkwash corgi" --use me/ink --use me/corgi --method switch --every 2
      adapterhub generate -p "a corgi <lora:ink:0.8>" --use me/corgi --method ties --set density=0.3
      adapterhub generate -p "two cats" --region me/ink=0,0,0.5,1 --region me/corgi=0.5,0,1,1
      adapterhub generate -p "a castle" --base ./my-sdxl --steps 40
      adapterhub generate -p "inkwash castle" --image castle.png --strength 0.6 --use me/ink
      adapterhub generate -p "a door" --image castle.png --mask door.png --strength 1
      adapterhub generate -p "a castle" --controlnet ./canny --control edges.png
      adapterhub generate -p "a castle" --base ./my-sdxl --refiner ./my-refiner --refine-from 0.8
    """
    out = None if out is None else picture_path(out)
    if quality is not None and (out is None or out.suffix.lower() == ".png"):
        raise click.UsageError("--quality goes with a .jpg or .webp in --out")

    from adapterhub.runtime.engine import Runtime
    from adapterhub_registry.encoding import picture_format
    from adapterhub_registry.files import write_atomically
    from adapterhub_registry.record import picture_with_record
    from adapterhub_registry.settings import RegistrySettings, ensure_home

    ensure_home(RegistrySettings.from_environment().home)  # said before the work, not after
    names = _file_names(prompts, count, out)
    format_name = picture_format(names[0])
    plan = composing.plan
    drawing = {**composing.drawing, **starting.drawing}
    with Runtime.load(
        base,
        device=device,
        dtype=dtype,
        config=config,
        offload=offload,
        quantize=quantize,
        **starting.loading,
    ) as runtime:
        result = runtime.generate(
            prompts,
            composition=plan,
            negative_prompt=negative,
            seed=seed,
            count=count,
            steps=steps,
            guidance_scale=guidance,
            scheduler=scheduler,
            width=width,
            height=height,
            **drawing,
            on_step=progress("generate"),
        )
    rows: list[dict[str, object]] = []
    for picture, record, name in zip(result.images, result.records, names, strict=True):
        write_atomically(name, picture_with_record(picture, record, format_name, quality=quality))
        row: dict[str, object] = {"file": str(name), "seed": record.seed, "prompt": record.prompt}
        rows.append(row | ({"record": json.loads(record.to_json())} if as_json else {}))
    print_rows(rows, key="file", as_json=as_json, quiet=quiet)


def _file_names(prompts: tuple[str, ...], count: int, out: Path | None) -> list[Path]:
    """Return a file name for each picture; names that were not chosen never hit an existing file."""
    from adapterhub_registry.files import make_directory, readable_stem

    total = len(prompts) * max(count, 1)
    if out is not None:
        make_directory(out.parent)
        if total == 1:
            return [out]
        return [out.with_name(f"{out.stem}-{i + 1}{out.suffix}") for i in range(total)]
    names: list[Path] = []
    for prompt in prompts:
        stem = readable_stem(prompt)
        number = 1
        for _ in range(max(count, 1)):
            while (name := Path(f"{stem}-{number}.png")).exists() or name in names:
                number += 1
            names.append(name)
    return names
