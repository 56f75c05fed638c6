"""`adapterhub find-file`: which adapter a file is."""

from pathlib import Path

import click

from adapterhub_cli.output import data_options, print_rows, say

WORDS = {
    "sha256": "the very file",
    "payload": "the same weights, another header",
    "version": "the version's digest",
    "autov1": "AutoV1 alone",
}


@click.command("find-file")
@click.argument("subject", metavar="FILE-or-HASH")
@data_options
def find_file(subject: str, as_json: bool, quiet: bool) -> int:
    """Say which version a file is, or a hash that somebody quotes: SHA-256, AutoV1, AutoV2, AutoV3.

    The first digits of a version's digest are understood too, as our pictures have them in `Lora hashes`.
    Exit code 1 if it is not known.

    \b
    Examples:
      adapterhub find-file downloads/x.safetensors
      adapterhub find-file 566a96fe45
    """
    from adapterhub_registry.store import Registry

    registry = Registry()
    path = Path(subject)
    is_file = path.exists() or not all(letter in "0123456789abcdef" for letter in subject.lower())
    found = registry.find_file(path) if is_file else registry.find_hash(subject)
    rows = [
        {
            "version": item.version.reference,
            "agrees": item.by if as_json else WORDS[item.by],
            "digest": item.version.digest if as_json else item.version.digest[:19],
            "state": item.version.state,
        }
        for item in found
    ]
    print_rows(rows, key="version", as_json=as_json, quiet=quiet)
    if not rows:
        say("this registry does not know it")
    return int(not rows)
