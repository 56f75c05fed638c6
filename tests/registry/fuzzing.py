"""Inputs that nobody would write by hand: values of any kind, and good ones with a part changed."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

COUNTS = pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.long)])
WORDS = [
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "a/b",
        "../x",
        "a\\b",
        "\0",
        "\n",
        "\ud800",
        "é",
        "x" * 300,
        "<b>",
        "a,b",
        "1,5",
    ),
    *("sha256:", "0" * 64, "0", "-0", "007", "1e999", "1.0", "NaN", "true", "null", "me/ink", "me/ink@3"),
]
NUMBERS = [
    0,
    -1,
    1,
    7,
    2**31,
    2**53,
    2**63,
    2**64,
    -(2**63),
    0.5,
    1.0,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
]
SCALARS = st.sampled_from([None, True, False, *NUMBERS, *WORDS]) | st.text(max_size=9) | st.integers()
KEYS = st.sampled_from(WORDS) | st.text(max_size=9)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=4,
)
BYTES = st.binary(max_size=8) | st.sampled_from([b"-", b"0", b"9", b'"', b"{", b"}", b"null", b"1.0", b" "])


def fuzz(check: Callable[..., None], *strategies: st.SearchStrategy[Any], count: int) -> None:
    """Call `check` with so many examples, the same ones each time."""
    chosen = settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    chosen(given(*strategies)(check))()


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@st.composite
def mutated(draw: st.DrawFn, good: Sequence[Any]) -> Any:
    """One of some JSON values, of which some places hold something else, or are gone."""
    value = json.loads(json.dumps(draw(st.sampled_from(good))))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return draw(JSON)
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "replace", "remove", "rename", "double"]))
        if kind == "remove":
            del holder[key]
        elif kind == "replace" or isinstance(holder, list):
            holder[key] = draw(JSON)
        else:
            holder[draw(KEYS)] = holder[key] if kind == "double" else holder.pop(key)
    return value


@st.composite
def damaged(draw: st.DrawFn, good: Sequence[bytes]) -> bytes:
    """One of some files, of which some bytes are others, more, or gone."""
    content = bytearray(draw(st.sampled_from(good)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.integers(0, 8))] = draw(BYTES)
    return bytes(content)


def _places(value: Any) -> Any:
    """Yield (object or list, key) of everything inside a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])
