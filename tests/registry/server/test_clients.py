"""The clients that people have, in processes of their own, with only HF_ENDPOINT and HF_TOKEN set."""

import hashlib
import json
import math
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from adapterhub_registry.server.xorbs import MAX_CHUNK
from tests.registry.conftest import MODULE, tensors_file, weights_bytes
from tests.registry.server import hub_program, xet_program
from tests.registry.server.conftest import Served, serving

CARD = """---
license: mit
instance_prompt: inkwash
tags: [lora, watery]
widget:
- text: a fox
  output: {url: more/fox.png}
---
# Ink

Soft.
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes weights in parts."""
    with serving(tmp_path_factory.mktemp("clients"), part_bytes=1000) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What somebody pushes."""
    path = tmp_path / "ink"
    (path / "more").mkdir(parents=True)
    (path / "ink.safetensors").write_bytes(weights_bytes(1))
    (path / "README.md").write_text(CARD)
    Image.new("RGB", (32, 32), (9, 99, 200)).save(path / "more" / "fox.png")
    return path


def run(served: Served, *words: object, by: str = "alice", cwd: Path) -> str:
    """Run a program as a user would, and return what it prints."""
    kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HF_ENDPOINT": served.url, "HF_HOME": str(cwd / "hf")}
    environment |= {"HF_TOKEN": served.tokens[by]} if by else {}
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, env=environment, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CLIENTS = [Path(sys.executable), *sorted(Path(os.environ.get("HUB_CLIENTS", "none")).glob("*/bin/python"))]
"""The installed release, and those that `make test-clients` installs."""


XET_CLIENTS = [path for path in CLIENTS if not path.parents[1].name.startswith(("0.", "1.19"))]


@pytest.mark.parametrize("python", CLIENTS, ids=lambda path: path.parents[1].name)
def test_a_day_with_huggingface_hub(python: Path, served: Served, folder: Path, tmp_path: Path) -> None:
    name = f"acme/ink-{CLIENTS.index(python)}"
    seen = json.loads(run(served, python, hub_program.__file__, folder, name, cwd=tmp_path))
    assert seen["me"] == "alice"
    assert seen["created"] == f"{served.url}/{name}"
    assert seen["empty"] == []
    assert (seen["unchanged"], seen["folder again"]) == (True, True)
    files = ["README.md", "ink.safetensors", "more/fox.png"]
    assert seen["files"] == seen["snapshot"] == files
    assert seen["tree"] == [*files[:2], "more", "more/fox.png"]
    assert seen["info"]["id"] == name
    assert (seen["info"]["sha"], seen["info"]["private"], seen["info"]["licence"]) == (True, False, "mit")
    assert seen["info"]["sizes"] == {path: (folder / path).stat().st_size for path in files}
    assert seen["info"]["lfs"] == {"ink.safetensors": hashlib.sha256(weights_bytes(1)).hexdigest()}
    assert seen["listed"] == seen["filtered"] == [name]
    assert (seen["paths"], seen["exists"]) == (["README.md", "more"], [True, False])
    assert seen["downloaded"]
    assert (seen["refs"], seen["notes"]) == ([["dev", "main"], ["v1", "prod"]], "draft")
    assert seen["prod"] == "ink.safetensors"
    assert seen["commits"] == ["All of it", "Upload ink.safetensors with huggingface_hub", "Start"]
    assert seen["tidied"] == ["README.md", "ink.safetensors", "license.txt"]
    for path, message in seen["refused"].items():
        assert f'"{path}" is not allowed: it holds pickled Python objects' in message
    assert len(seen["refused"]) == len(seen["missing"]) - 1 == 2
    assert seen["moved"] == [f"{name}-moved", "README.md"]
    assert seen["gone"] == [False, False]


def noise(metadata: dict[str, str]) -> bytes:
    """Weights of a mebibyte and more that no compression makes smaller."""
    chance, tensors = random.Random(1), dict[str, tuple[str, list[int], bytes]]()
    for name, shape in ((f"{MODULE}.lora_A.weight", [1100, 160]), (f"{MODULE}.lora_B.weight", [96, 1100])):
        count = math.prod(shape)
        data = struct.pack(f"<{count}f", *(chance.random() for _ in range(count)))
        tensors[name] = ("F32", shape, data)
    return tensors_file(tensors, metadata)


@pytest.mark.parametrize("python", XET_CLIENTS, ids=lambda path: path.parents[1].name)
def test_a_push_by_xet_sends_only_what_is_new(python: Path, served: Served, tmp_path: Path) -> None:
    name, files = f"acme/by-xet-{XET_CLIENTS.index(python)}", tmp_path / "files"
    files.mkdir()
    first, edited, small = noise({}), noise({"note": "edited"}), weights_bytes(31)
    for number, content in enumerate((first, edited, edited, small)):
        (files / str(number)).write_bytes(content)
    before = set(served.registry.home.glob("xet/*/*/*/*.json"))
    said = run(served, python, xet_program.__file__, files, name, by="bob", cwd=tmp_path)
    assert f"expected sha256:{'0' * 64}" in said  # people read what the server says
    xorbs = set(served.registry.home.glob("xet/*/*/*/*.json")) - before
    came = sorted(xorbs, key=lambda path: path.stat().st_mtime_ns)
    sent = [sum(json.loads(path.read_bytes())["sizes"]) for path in came]
    # The file again that is not changed sends nothing; of the edited one, its first chunk or two.
    assert (sent[0], sent[2:]) == (len(first), [len(small), 5000])
    assert 0 < sent[1] <= 2 * MAX_CHUNK
    assert [version.files[0].sha256 for version in served.registry.versions(name)] == [
        hashlib.sha256(content).hexdigest() for content in (first, edited, small)
    ]


def test_the_hf_command(served: Served, folder: Path, tmp_path: Path) -> None:
    hf = Path(sys.executable).with_name("hf")
    run(served, hf, "upload", "acme/wash2", folder, "--private", by="bob", cwd=tmp_path)
    version = served.registry.resolve("acme/wash2")
    assert (version.author, version.manifest.licence, version.trigger_words) == ("bob", "MIT", ("inkwash",))
    (preview,) = served.registry.previews(version)
    assert preview.prompt == "a fox"
    run(served, hf, "download", "acme/wash2", "--local-dir", tmp_path / "got", by="rita", cwd=tmp_path)
    for name in ("ink.safetensors", "README.md", "more/fox.png"):
        assert (tmp_path / "got" / name).read_bytes() == (folder / name).read_bytes()


LOADS = """
import sys
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from huggingface_hub import hf_hub_download

pipeline = StableDiffusionXLPipeline.from_pretrained(sys.argv[1])
for words in ({}, {"revision": "v1", "weight_name": "pytorch_lora_weights.safetensors"}):
    pipeline.load_lora_weights("acme/loaded", adapter_name="ink" + str(len(words)), **words)
tensors = load_file(hf_hub_download("acme/loaded", "pytorch_lora_weights.safetensors"))
layers = dict(pipeline.unet.named_modules())
name = next(key for key in tensors if key.endswith("lora_A.weight"))
layer = layers[name.removeprefix("unet.").removesuffix(".lora_A.weight")]
assert torch.equal(layer.lora_A["ink0"].weight, tensors[name])
assert torch.equal(layer.lora_A["ink2"].weight, tensors[name])
"""


@pytest.mark.slow
def test_diffusers_loads_a_private_adapter_by_its_name(served: Served, tmp_path: Path) -> None:
    from tests.conftest import MINI

    (tmp_path / "w.safetensors").write_bytes(weights_bytes(3))
    served.registry.add(tmp_path / "w.safetensors", name="acme/loaded")
    run(served, sys.executable, "-c", LOADS, MINI, by="rita", cwd=tmp_path)
