"""Write the reference pages that come from the code: commands, config keys, errors and routes.

    python docs/reference.py

The checks compare what it would write with what is there.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from starlette.routing import Route

import adapterhub.errors
import adapterhub.serving.errors
import adapterhub_registry.errors
import adapterhub_registry.server.errors
from adapterhub.runtime.engine import Runtime
from adapterhub.serving.app import make_app
from adapterhub.training.config import TrainConfig
from adapterhub_cli.main import cli
from adapterhub_registry.errors import AdapterHubError
from adapterhub_registry.server.openapi import WHO, about
from adapterhub_registry.server.routes import ROUTES

FOLDER = Path(__file__).parent / "reference"
KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}


def pages() -> dict[str, str]:
    """Return all pages, by file name."""
    return {
        "command-line.md": command_line(),
        "config.md": config(),
        "errors.md": errors(),
        "http-registry.md": registry_routes(),
        "http-runtime.md": runtime_routes(),
    }


def command_line() -> str:
    """Return the page of all commands."""
    parts = [
        "# Command line\n\nEvery command with its options, as `--help` tells them. "
        "What is read by programs: `--json`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n"
    ]
    return "\n".join([*parts, *_commands("adapterhub", cli)])


def _commands(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    pieces = [piece.removeprefix("[").removesuffix("]") for piece in command.collect_usage_pieces(context)]
    takes = " ".join(f"[{piece}]" if piece == "OPTIONS" else piece for piece in pieces)
    yield f"## {path}\n\n```text\n{path} {takes}\n```\n\n{_help(inspect.cleandoc(command.help or ''))}\n"
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        yield _table(("option", "default", "what it does"), [_option(one, context) for one in options])
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(f"{path} {name}", command.commands[name])


def _help(text: str) -> str:
    """Return a help text as Markdown: what click keeps as it is becomes a block."""
    parts: list[str] = []
    for part in text.split("\n\n"):
        kept, _, rest = part.partition("\b\n")
        if rest:
            head, _, lines = rest.partition("\n")
            is_titled = head.rstrip().endswith(":") and not head.startswith(" ")
            block = inspect.cleandoc(f"\n{lines if is_titled else rest}")
            parts.append((f"{head}\n\n" if is_titled else "") + f"```text\n{block}\n```")
        else:
            parts.append(kept.strip().replace("<", "&lt;"))
    return "\n\n".join(filter(None, parts))


def _option(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    info = option.to_info_dict()
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag and not option.count:
        names += f" `{option.make_metavar(context)}`"
    default = info["default"]
    is_said = default not in (None, False, (), "") and not callable(option.default)
    return (
        names,
        f"`{_plain(default)}`" if is_said and str(default) != "Sentinel.UNSET" else "",
        option.help or "",
    )


def config() -> str:
    """Return the page of all keys of the config file."""
    intro = (
        "# Config file\n\nWhat `adapterhub train` and `sweep` read: TOML. Values in `[defaults]` hold for "
        "all adapters, and each `[[adapters]]` table may say otherwise; keys that it does not know are "
        "refused, with their line. `--set` changes one value, as in `--set defaults.network.rank=8`.\n"
    )
    return "\n".join([intro, *_tables("", TrainConfig)])


def _tables(path: str, cls: type) -> Iterator[str]:
    """Yield a table of the keys of a config class, and those of the tables within."""
    hints = typing.get_type_hints(cls)
    said = _attributes(cls)
    rows: list[tuple[str, str, str, str]] = []
    within: list[tuple[str, type]] = []
    for field in dataclasses.fields(cls):
        inner = _config_class(hints[field.name])
        if inner is None:
            rows.append(
                (f"`{field.name}`", _kind(hints[field.name]), _default(field), said.get(field.name, ""))
            )
        else:
            prefix = "defaults" if path == "adapters" else path
            within.append((f"{prefix}.{field.name}".strip("."), inner))
    if rows:
        title = "[[adapters]] and [defaults]" if path == "adapters" else f"[{path}]"
        yield f"## {title}\n\n{_summary(cls)}\n"
        yield _table(("key", "value", "default", "meaning"), rows)
    for name, inner in within:
        yield from _tables(name, inner)


def _config_class(hint: object) -> type | None:
    """Return the config class in a field's type, if there is one."""
    candidates = [hint, *typing.get_args(hint)]
    return next((one for one in candidates if isinstance(one, type) and dataclasses.is_dataclass(one)), None)


def _kind(hint: object) -> str:
    if hint in KINDS:
        return KINDS[typing.cast("type", hint)]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _kind(next(one for one in arguments if one is not type(None)))
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"table of {_kind(arguments[1])}"
    raise TypeError(f"no word for {hint}")


def _default(field: "dataclasses.Field[object]") -> str:
    if field.default is not dataclasses.MISSING:
        return "" if field.default is None else f"`{_toml(field.default)}`"
    return "`{}`" if field.default_factory is not dataclasses.MISSING else "must be given"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, tuple) else str(value)


def errors() -> str:
    """Return the page of all errors."""
    intro = (
        "# Errors\n\nEvery error that AdapterHub raises on purpose is an `AdapterHubError` with a stable "
        "`code` and its values as attributes; servers answer with the same code. The message says what "
        "to do.\n"
    )
    modules = (
        adapterhub_registry.errors,
        adapterhub_registry.server.errors,
        adapterhub.errors,
        adapterhub.serving.errors,
    )
    found: dict[str, type[AdapterHubError]] = {}
    for module in modules:
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, AdapterHubError):
                found.setdefault(one.code, one)
    rows = [
        (f"`{code}`", f"`{one.__name__}`", _summary(one), ", ".join(f"`{name}`" for name in _fields(one)))
        for code, one in sorted(found.items())
    ]
    return intro + "\n" + _table(("code", "class", "what has happened", "attributes"), rows)


def _fields(cls: type) -> list[str]:
    """Return the attributes that an error's constructor sets."""
    source = "".join(
        inspect.getsource(one) for one in reversed(cls.__mro__) if issubclass(one, AdapterHubError)
    )
    return list(dict.fromkeys(re.findall(r"^\s+self\.([a-z]\w*) =", source, re.MULTILINE)))


def registry_routes() -> str:
    """Return the page of the registry server's routes."""
    intro = (
        "# HTTP: the registry\n\nWhat [`adapterhub serve registry`](../server.md) answers. `/v1` is the "
        "protocol of `push` and `pull`, the rest is what Hugging Face clients speak. A running server "
        "has the same as `/openapi.json`.\n"
    )
    rows = [
        (
            f"`{one.method} {one.path}`",
            about(one)[0],
            ", ".join((*one.query, *one.fields)),
            WHO[one.rule.role],
        )
        for one in sorted(ROUTES, key=lambda one: (not one.path.startswith("/v1"), one.path, one.method))
    ]
    return intro + "\n" + _table(("route", "what it does", "takes", "who may"), rows)


def runtime_routes() -> str:
    """Return the page of the served runtime's routes."""
    intro = (
        "# HTTP: the runtime\n\nWhat [`adapterhub serve runtime`](../serving.md) answers: our own "
        "`/v1/generate`, OpenAI's pictures, and the part of the A1111 web UI's API that clients use.\n"
    )
    rows: list[tuple[str, str]] = []
    with Runtime.load("mini", device="cpu") as runtime:
        for route in make_app(runtime, secret=None).routes:
            if isinstance(route, Route):
                summary = " ".join((inspect.getdoc(route.endpoint) or "").partition("\n\n")[0].split())
                methods = sorted((route.methods or set()) - {"HEAD"})
                rows += [(f"`{method} {route.path}`", summary) for method in methods]
    return intro + "\n" + _table(("route", "what it does"), rows)


def _summary(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())


def _attributes(cls: type) -> dict[str, str]:
    """Return what a docstring says of each attribute."""
    text = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    parts = re.split(r"^    (\w+): ", text, flags=re.MULTILINE)[1:]
    return {name: " ".join(words.split()) for name, words in zip(parts[::2], parts[1::2], strict=True)}


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _table(head: tuple[str, ...], rows: typing.Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
