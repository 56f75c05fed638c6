"""The command group, and the one place where errors become messages."""

import sys
import traceback
from collections.abc import Sequence

import click

from adapterhub_cli.add import add
from adapterhub_cli.admin import admin
from adapterhub_cli.adopt import adopt
from adapterhub_cli.alias import alias
from adapterhub_cli.backup import backup
from adapterhub_cli.bake import bake
from adapterhub_cli.bases import bases
from adapterhub_cli.cache import cache
from adapterhub_cli.card import card
from adapterhub_cli.compare import compare
from adapterhub_cli.convert import convert
from adapterhub_cli.delete import delete
from adapterhub_cli.describe import describe
from adapterhub_cli.diff import diff
from adapterhub_cli.doctor import doctor
from adapterhub_cli.events import events
from adapterhub_cli.export import export
from adapterhub_cli.extract import extract
from adapterhub_cli.find_file import find_file
from adapterhub_cli.find_image import find_image
from adapterhub_cli.gc import gc
from adapterhub_cli.generate import generate
from adapterhub_cli.grid import grid
from adapterhub_cli.inspect import inspect
from adapterhub_cli.lineage import lineage
from adapterhub_cli.list import list_adapters
from adapterhub_cli.lock import lock
from adapterhub_cli.login import login, logout, whoami
from adapterhub_cli.merge import merge
from adapterhub_cli.output import say
from adapterhub_cli.preview import preview
from adapterhub_cli.pull import pull
from adapterhub_cli.push import push
from adapterhub_cli.quickstart import quickstart
from adapterhub_cli.remote import remote
from adapterhub_cli.replay import replay
from adapterhub_cli.resize import resize
from adapterhub_cli.restore import restore
from adapterhub_cli.retrain import retrain
from adapterhub_cli.runs import runs
from adapterhub_cli.search import search
from adapterhub_cli.serve import serve
from adapterhub_cli.show import show
from adapterhub_cli.slider import slider
from adapterhub_cli.sweep import sweep
from adapterhub_cli.tag import tag
from adapterhub_cli.train import train
from adapterhub_cli.verify import verify
from adapterhub_cli.versions import versions
from adapterhub_cli.yank import yank


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="adapterhub")
def cli(verbose: bool) -> None:
    """Train, keep, share and compose SDXL LoRA adapters on one frozen base.

    \b
    Examples:
      adapterhub generate -p "a red heart" --seed 7
      adapterhub train styles.toml
      adapterhub generate -p "inkwash corgi" --use me/ink:0.8 --use me/corgi
      adapterhub push me/ink --to team
    """
    del verbose  # read in `main`, which stands outside of click


for command in (
    *(
        add,
        adopt,
        alias,
        backup,
        bake,
        bases,
        cache,
        compare,
        convert,
        delete,
        doctor,
        events,
        export,
        extract,
    ),
    *(find_file, find_image, gc, generate, inspect, lineage, list_adapters, lock, merge, pull, push),
    *(card, describe, preview, diff, grid, slider),
    *(admin, quickstart, remote, replay, resize, restore, retrain, runs, search, serve, show, sweep),
    *(tag, train, verify, versions, yank, login, logout, whoami),
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # -v is understood before and after the command.
    is_verbose = any(word in ("-v", "--verbose") for word in words)
    words = [word for word in words if word not in ("-v", "--verbose")]
    try:
        code = cli.main(words, prog_name="adapterhub", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return 130
    except Exception as exc:  # noqa: BLE001 - the one boundary: no traceback reaches a user unasked
        if is_verbose:
            traceback.print_exception(exc)
        else:
            say(_message(exc))
        return 1
    return code if isinstance(code, int) else 0


def _message(error: Exception) -> str:
    from adapterhub_registry.errors import AdapterHubError, missing_extra

    if isinstance(error, ModuleNotFoundError):
        error = missing_extra(error) or error
    if isinstance(error, AdapterHubError):
        return f"error: {error}."
    name = type(error).__name__
    return (
        f"error: unexpected {name}: {error}. This is a fault of AdapterHub; run again with -v and report it"
    )
