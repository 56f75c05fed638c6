"""`hf:` as a remote, by the command line, against a hub that speaks the protocol: our own server."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import validate_repo_id

from adapterhub_registry.hub import is_hub
from adapterhub_registry.store import Registry
from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Served


@pytest.fixture
def hub_home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


PROGRAM = """
import contextlib, io, json, sys
from adapterhub_cli.main import main
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def run(served: Served, home: Path, *commands: list[str], by: str = "alice") -> list[tuple[int, str, str]]:
    """Run commands as a user of that hub, in one process, and return code, stdout and stderr of each."""
    kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HF_ENDPOINT": served.url, "HF_HOME": str(home / "hf"), "HF_TOKEN": served.tokens[by]}
    environment |= {"ADAPTERHUB_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    command, words = [sys.executable, "-c", PROGRAM], json.dumps(commands)
    done = subprocess.run(
        command, env=environment, input=words, stdout=subprocess.PIPE, text=True, check=True
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_a_version_comes_back_from_the_hub_as_it_was(
    served: Served, adapter: str, hub_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ink.safetensors"
    path.write_bytes(weights_bytes(1))
    name = f"{adapter[:60]}-hub"
    version = Registry(hub_home).add(path, name=name, trigger_words=["inkwash"], tags=["soft"], licence="mit")
    pushed, again = run(
        served,
        hub_home,
        ["push", name, "--to", "hf", "--alias", "prod", "--json"],
        ["push", name, "--to", "hf"],
    )
    assert pushed[0] == 0, pushed
    assert json.loads(pushed[1])["version"] == f"{name}@1"
    assert (again[0], "nothing changed" in again[2]) == (0, True), again
    shown = served.registry.resolve(f"{name}@prod")
    assert (shown.trigger_words, shown.manifest.licence) == (("inkwash",), "mit")
    other = tmp_path / "other"
    pulls = [["pull", f"hf:{name}@prod"], ["pull", f"hf:{name}", "--as", "me/copy"]]
    answers = run(served, other, *pulls, by="rita")
    assert [code for code, _, _ in answers] == [0, 0], answers
    assert Registry(other).versions(name) == [version]
    assert Registry(other).resolve("me/copy").digest == version.digest


def test_a_repository_of_somebody_else_is_imported(served: Served, adapter: str, hub_home: Path) -> None:
    content = weights_bytes(2)
    card = b"---\ninstance_prompt: wash\n---\n# Theirs\n"
    sha = served.commit(adapter, {"ink.safetensors": content, "README.md": card}).table["commitOid"]
    # On a branch there may be several files of weights.
    served.ask("POST", f"/api/models/{adapter}/branch/draft", {}, by="alice")
    served.commit(adapter, {"b/wash.safetensors": weights_bytes(3)}, branch="draft")
    first, same, several, chosen = run(
        served,
        hub_home,
        ["pull", f"hf:{adapter}", "--as", "me/ink"],
        ["pull", f"hf:{adapter}@v1", "--as", "me/ink"],
        ["pull", f"hf:{adapter}@draft", "--as", "me/ink"],
        ["pull", f"hf:{adapter}@draft", "--as", "me/ink", "--file", "b/wash.safetensors"],
    )
    assert (first[0], same[0], "nothing changed" in same[2]) == (0, 0, True), (first, same)
    version = Registry(hub_home).resolve("me/ink@1")
    assert version.lineage == {"operation": "imported", "repository": f"{adapter}@{sha}"}
    assert version.trigger_words == ("wash",)
    assert version.files[0].sha256 == hashlib.sha256(content).hexdigest()
    assert (several[0], "b/wash.safetensors, ink.safetensors" in several[2]) == (1, True), several
    assert "--file" in several[2]
    assert (chosen[0], Registry(hub_home).resolve("me/ink").number) == (0, 2), chosen


def test_what_the_hub_refuses_is_said(served: Served, adapter: str, hub_home: Path) -> None:
    references = ("acme/none", adapter, f"{adapter}@no", "no-owner")
    *refused, wrong = run(served, hub_home, *(["pull", f"hf:{name}"] for name in references), by="other")
    for code, _, err in refused:
        assert (code, err.startswith('error: the remote "hf:acme/'), "404" in err) == (1, True, True), err
    assert (wrong[0], "hf:owner/name" in wrong[2]) == (1, True)


def test_what_the_hub_calls_a_repository_is_understood() -> None:
    for name in ("Owner/Some.Name_2", "a/b"):
        validate_repo_id(name)
        assert is_hub(f"hf:{name}")
    assert not is_hub("hfx:a/b")
