"""References: the strings that name a version, `[remote:]namespace/name[@selector]`."""

import re
from dataclasses import dataclass

from adapterhub_registry.errors import ReferenceSyntaxError

NAME = r"[a-z0-9][a-z0-9._-]{0,95}"
ALIAS = r"[a-z][a-z0-9._-]{0,63}"
REFERENCE = re.compile(
    rf"(?:(?P<remote>{NAME}):)?(?P<namespace>{NAME})/(?P<name>{NAME})"
    rf"(?:@(?P<selector>v?[0-9]{{1,9}}|sha256:[0-9a-f]{{12,64}}|(?!v[0-9]+$){ALIAS}))?",
    re.IGNORECASE | re.ASCII,  # else K, the sign of the kelvin, is a k
)
RESERVED_ALIASES = frozenset({"latest", "main", "head"})


@dataclass(frozen=True)
class Reference:
    """The parts of a reference, in lower case.

    Attributes:
        namespace: Who the adapter belongs to.
        name: The adapter's name inside the namespace.
        selector: A number (`3`), an alias, `latest`, or `sha256:` and 12 or more hex digits.
        remote: The registry to ask; empty for this one.
    """

    namespace: str
    name: str
    selector: str = "latest"
    remote: str = ""

    @property
    def adapter(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        remote = f"{self.remote}:" if self.remote else ""
        selector = "" if self.selector == "latest" else f"@{self.selector}"
        return f"{remote}{self.adapter}{selector}"


def parse_reference(text: str) -> Reference:
    """Read a reference; capitals are folded.

    Raises:
        ReferenceSyntaxError: It does not follow the grammar.

    Example:
        >>> parse_reference("Me/Ink@v3")
        Reference(namespace='me', name='ink', selector='3', remote='')
        >>> str(parse_reference("team:acme/corgi@prod"))
        'team:acme/corgi@prod'
    """
    match = REFERENCE.fullmatch(text.strip())
    if match is None:
        raise ReferenceSyntaxError(text, "it is not [remote:]namespace/name[@selector]")
    for part in ("namespace", "name"):
        check_name(match[part], text)
    selector = (match["selector"] or "latest").lower()
    if re.fullmatch(r"v[0-9]+", selector):
        selector = selector[1:]
    if selector.isdigit():
        selector = str(int(selector))
    return Reference(
        namespace=match["namespace"].lower(),
        name=match["name"].lower(),
        selector=selector,
        remote=(match["remote"] or "").lower(),
    )


def adapter_reference(name: str) -> Reference:
    """Read `namespace/name`, dropping a selector."""
    reference = parse_reference(name)
    return Reference(reference.namespace, reference.name)


def check_name(name: str, text: str) -> None:
    """Check one part of `namespace/name`.

    Raises:
        ReferenceSyntaxError: The part is not a legal name; `text` is quoted in the message.
    """
    folded = name.lower()
    if not re.fullmatch(NAME, folded):
        raise ReferenceSyntaxError(text, f'"{name}" must be 1 to 96 letters, digits, ".", "_" or "-"')
    for wrong in ("--", ".."):
        if wrong in folded:
            raise ReferenceSyntaxError(text, f'"{name}" must not hold "{wrong}"')
    if folded.endswith(".git"):
        raise ReferenceSyntaxError(text, f'"{name}" must not end in ".git"')


def name_from(text: str) -> str:
    """Return text as one part of a name: lower case, no doubled dashes or dots, at most 96 letters.

    Example:
        >>> name_from("Ink Wash (v2)..safe--x")
        'ink-wash-v2-safe-x'
    """
    lowered = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    return re.sub(r"[-.]{2,}", "-", lowered).strip("-._")[:96].strip("-._").removesuffix(".git")
