"""`adapterhub serve runtime`: pictures over HTTP."""

from pathlib import Path

import click

from adapterhub_cli.output import say


@click.command("runtime")
@click.option("--host", default="127.0.0.1", show_default=True, help="Any but this machine needs a secret.")
@click.option("--port", type=click.IntRange(0, 65535), default=8010, show_default=True, help="0 for any.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help="A file with what clients must send; else ADAPTERHUB_SECRET.",
)
@click.option("--base", default="mini", show_default=True, help="A name, a directory, or a hub id.")
@click.option("--device", help="cpu, cuda or mps; by default the best there is.")
@click.option("--dtype", help="float32, float16 or bfloat16; by default float32 on the CPU, else float16.")
@click.option(
    "--plane",
    type=click.Choice(["fused", "low_rank", "mixed"]),
    help="For requests that name none; by default the best.",
)
@click.option("--max-batch", type=int, default=8, show_default=True, help="Pictures made together.")
@click.option("--queue", type=int, default=256, show_default=True, help="Pictures that may wait.")
@click.option("--tenant-queue", type=int, help="Of one tenant; by default as many.")
@click.option("--max-steps", type=int, default=150, show_default=True, help="Of a picture.")
@click.option("--max-count", type=int, default=16, show_default=True, help="Pictures of a request.")
@click.option("--max-pixels", type=int, help="Of a picture; by default four times the base's own.")
@click.option("--max-body-mb", type=int, default=32, show_default=True, help="Of a request.")
def serve_runtime(
    host: str,
    port: int,
    secret_file: Path | None,
    base: str,
    device: str | None,
    dtype: str | None,
    plane: str | None,
    max_batch: int,
    queue: int,
    tenant_queue: int | None,
    max_steps: int,
    max_count: int,
    max_pixels: int | None,
    max_body_mb: int,
) -> None:
    """Serve pictures: our own API, OpenAI's, the web UI's, and a page with sliders at /.

    It stops on Ctrl-C and SIGTERM, and tells those who wait.

    \b
    Examples:
      adapterhub serve runtime
      adapterhub serve runtime --base ./my-sdxl --device cuda --queue 64
      adapterhub serve runtime --host 0.0.0.0 --secret-file secret.txt
    """
    from adapterhub.serving.secret import find_secret, require_secret
    from adapterhub.serving.server import bind, serve, url_of

    secret = find_secret(secret_file)
    require_secret(host, secret)
    taken = bind(host, port)  # before the base is loaded, which takes longer

    from adapterhub.runtime.engine import Runtime
    from adapterhub.serving.app import make_app
    from adapterhub.serving.limits import RequestLimits

    limits = RequestLimits(body_bytes=max_body_mb << 20, pixels=max_pixels, steps=max_steps, count=max_count)
    with (
        taken,
        Runtime.load(
            base,
            device=device,
            dtype=dtype,
            max_batch=max_batch,
            queue_limit=queue,
            tenant_limit=tenant_queue,
        ) as runtime,
    ):
        app = make_app(runtime, secret=secret, limits=limits, plane=plane)
        ready = f"{base} is served at {url_of(taken)}; stop it with Ctrl-C"
        serve(app, runtime, taken, on_ready=lambda: say(ready))
    say("stopped")
