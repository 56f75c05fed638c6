"""Every key of a TOML document is found on its line."""

import json
import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.training.toml_lines import key_lines

EXAMPLE = '''# a comment with [brackets] and = signs
title = "a # b = c"  # base.model = 1
"quoted key" = 1
'literal.key'."esc\\u0041ped" = 2
text = """
[not.a.table]
a = 1 \\""" still
"""""
other = \'\'\'
b = 2
\'\'\'
list = [ # the first
  1, [2,
  3], { x = "]", y.z = [
    4 ] },
]
inline = { a = 1, "b.c" = { d = \'}\' } }

[server . "a]b"]
port = 1979-05-27 07:32:01Z

[[fruit]]
name = "apple"
[fruit.size]
x = 1
[[fruit.kinds]]
name = "red"

[[fruit]]
size.x = 2
[[fruit.kinds]]
[[fruit.kinds]]
name = "green"
'''


def paths(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to everything that is in a document."""
    if at:
        yield at
    if isinstance(value, dict):
        items: Any = value.items()
    else:
        items = enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*at, key))


def test_all_kinds_of_keys_are_found() -> None:
    lines = key_lines(EXAMPLE)
    assert set(lines) == set(paths(tomllib.loads(EXAMPLE)))
    expected = {
        ("title",): 2,
        ("quoted key",): 3,
        ("literal.key", "escAped"): 4,
        ("text",): 5,
        ("other",): 9,
        ("list",): 12,
        ("list", 0): 13,
        ("list", 1, 1): 14,
        ("list", 2): 14,
        ("list", 2, "y", "z"): 14,
        ("list", 2, "y", "z", 0): 15,
        ("inline", "b.c", "d"): 17,
        ("server",): 19,
        ("server", "a]b", "port"): 20,
        ("fruit",): 22,
        ("fruit", 0): 22,
        ("fruit", 0, "size"): 24,
        ("fruit", 0, "kinds", 0, "name"): 27,
        ("fruit", 1): 29,
        ("fruit", 1, "size", "x"): 30,
        ("fruit", 1, "kinds", 0): 31,
        ("fruit", 1, "kinds", 1, "name"): 33,
    }
    assert {keys: lines[keys] for keys in expected} == expected
    assert key_lines(EXAMPLE.replace("\n", "\r\n")) == lines


ODD = st.text(alphabet="ab#=[]{},.'\\ é\t", max_size=6)
SPACES = st.sampled_from(["", " ", "\t"])
COMMENTS = st.sampled_from(["", "\n", " # ] } = [x]\n", "\n\n  # 'a\n"])


@st.composite
def keys_(draw: st.DrawFn, number: int) -> tuple[str, str]:
    """A key that differs from those of other numbers, and how it is written."""
    kind = draw(st.sampled_from(["bare", "basic", "literal"]))
    if kind == "bare":
        return f"k-{number}", f"k-{number}"
    key = f"{draw(ODD)}{number}"
    if kind == "basic" or "'" in key:
        return key, json.dumps(key)
    return key, f"'{key}'"


@st.composite
def values(draw: st.DrawFn, depth: int, *, on_one_line: bool = False) -> str:
    """A value, written in one of TOML's ways."""
    kinds = ["scalar", "basic", "literal"]
    kinds += [] if on_one_line else ["long", "long literal"]
    kinds += ["list", "table"] if depth else []
    kind = draw(st.sampled_from(kinds))
    odd = draw(ODD)
    if kind == "scalar":
        return draw(st.sampled_from(["1", "-2.5e3", "true", "inf", "1979-05-27 07:32:01.5Z", "0xff"]))
    if kind == "basic":
        return json.dumps(odd + draw(st.sampled_from(["", '"', '"""'])))
    if kind == "literal":
        return "'" + odd.replace("'", '"') + "'"
    if kind == "long":
        inside = odd.replace("\\", "\\\\") + draw(
            st.sampled_from(["\n[x]\n", '\n"\n""x', "\\\n  ", '\\"""', '""'])
        )
        return f'"""{inside}"""'
    if kind == "long literal":
        return "'''" + odd.replace("'", '"') + draw(st.sampled_from(["\nb = 1\n", "''", "\n''x'"])) + "'''"
    if kind == "list":
        items = draw(st.lists(values(depth - 1, on_one_line=on_one_line), max_size=3))
        gaps = [draw(SPACES if on_one_line else COMMENTS) for _ in items]
        last = draw(st.sampled_from(["", ","])) if items else ""
        return "[" + ",".join(gap + item for gap, item in zip(gaps, items, strict=True)) + f"{last} ]"
    pairs = [
        f"{draw(keys_(number))[1]}{draw(SPACES)}= {draw(values(depth - 1, on_one_line=True))}"
        for number in range(draw(st.integers(0, 3)))
    ]
    return "{ " + ", ".join(pairs) + " }"


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str | int, ...], int]]:
    """A document, and the lines of the keys whose values it gives."""
    text, expected, numbers = "", {}, iter(range(100))
    table: tuple[str | int, ...] = ()
    lists: dict[str, int] = {}
    for _ in range(draw(st.integers(1, 8))):
        text += draw(COMMENTS) + "\n"
        kind = draw(st.sampled_from(["pair", "pair", "dotted", "header", "list", "same list", "in list"]))
        parts = [draw(keys_(next(numbers))) for _ in range(1 if kind in ("pair", "list") else 2)]
        if kind in ("same list", "in list") and lists:
            written = draw(st.sampled_from(sorted(lists)))
            (key,) = tomllib.loads(f"{written} = 0")
            if kind == "same list":
                table, lists[written] = (key, lists[written]), lists[written] + 1
                text += f"[[{written}]]"
            else:
                table = (key, lists[written] - 1, parts[0][0])
                text += f"[{written}.{parts[0][1]}]"
        elif kind == "list":
            ((key, written),) = parts
            table, lists[written] = (key, 0), 1
            text += f"[[ {written} ]]"
        elif kind == "header":
            table = tuple(key for key, _ in parts)
            text += "[" + draw(SPACES) + " . ".join(written for _, written in parts) + "]"
        else:
            dot = draw(SPACES) + "." + draw(SPACES)
            expected[*table, *(key for key, _ in parts)] = text.count("\n") + 1
            text += dot.join(written for _, written in parts) + draw(SPACES) + "=" + draw(SPACES)
            text += draw(values(2))
            continue
        expected[table] = text.count("\n") + 1
    return text, expected


@settings(max_examples=60, deadline=None)
@given(documents())
def test_documents_of_every_form_agree_with_tomllib(
    document: tuple[str, dict[tuple[str | int, ...], int]],
) -> None:
    text, expected = document
    lines = key_lines(text)
    assert set(lines) == set(paths(tomllib.loads(text)))
    assert {keys: lines[keys] for keys in expected} == expected
