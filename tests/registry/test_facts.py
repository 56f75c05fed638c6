"""What is read from the files of a version: ranks, alphas, targets, what the training was."""

import hashlib
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterhub_registry.facts import VersionFacts
from adapterhub_registry.store import Registry
from tests.registry.conftest import MODULE, bytes_read, tensors_file, weights_bytes

Weights = Callable[..., Path]
LARGE = 100_000
"""A text width that makes a file of 0.8 MB."""


def test_ranks_alphas_targets_and_training_are_read_from_the_file(registry: Registry, tmp_path: Path) -> None:
    tensors: dict[str, tuple[str, list[int], bytes]] = {}
    for number, (module, dtype, alpha) in enumerate(
        [
            ("lora_unet_input_blocks_4_1_proj_in", "F16", struct.pack("<e", 4)),
            ("lora_unet_input_blocks_4_1_proj_out", "F32", struct.pack("<f", 0.5)),
            ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "BF16", struct.pack("<f", 8)[2:]),
        ]
    ):
        rank = 4 * (number + 1)
        tensors[f"{module}.lora_down.weight"] = ("F16", [rank, 3], bytes(2 * rank * 3))
        tensors[f"{module}.lora_up.weight"] = ("F16", [5, rank], bytes(2 * rank * 5))
        tensors[f"{module}.alpha"] = (dtype, [], alpha)
    metadata = {
        "ss_steps": "1200",
        "ss_epoch": "10",
        "ss_num_train_images": "40",
        "ss_unet_lr": "0.0001",
        "ss_text_encoder_lr": "None",
        "ss_avr_loss": "0.083",
        "ss_tag_frequency": '{"a": {"b": 1}}',
        "ss_network_alpha": "99",
    }
    content = tensors_file(tensors, metadata)
    (tmp_path / "kohya.safetensors").write_bytes(content)
    version = registry.add(tmp_path / "kohya.safetensors", name="me/ink", base="mini")
    header = int.from_bytes(content[:8], "little")
    assert registry.facts(version) == VersionFacts(
        ranks="4 8 12",
        alphas="0.5 4 8",
        targets="unet 2, text_encoder 1",
        parameters=24 * (3 + 5) + 3,
        size=len(content),
        payload_digest=hashlib.sha256(content[8 + header :]).hexdigest(),
        metrics={
            "steps": "1200",
            "epoch": "10",
            "images": "40",
            "unet_learning_rate": "0.0001",
            "avr_loss": "0.083",
        },
        linked="",
    )


def test_of_very_many_alphas_the_least_and_the_greatest_are_kept(registry: Registry, tmp_path: Path) -> None:
    tensors = {
        f"lora_unet_input_blocks_{number}_1_proj_in.{part}": ("F32", shape, struct.pack("<f", number))
        for number in range(33)
        for part, shape in (("lora_down.weight", [1, 1]), ("lora_up.weight", [1, 1]), ("alpha", []))
    }
    (tmp_path / "x").write_bytes(tensors_file(tensors, {}))
    assert registry.facts(registry.add(tmp_path / "x", name="me/ink", base="mini")).alphas == "0 ... 32"


@pytest.mark.parametrize(
    ("metadata", "alphas"),
    [
        ({}, ""),
        ({"ss_network_alpha": "16"}, "16"),
        ({"ss_network_alpha": "Dynamic"}, ""),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.alpha_pattern": {"to_k": 0.5}}'}, "0.5 8"),
        ({"lora_adapter_metadata": '["unet.lora_alpha"]'}, ""),
        ({"lora_adapter_metadata": "{broken"}, ""),
    ],
)
def test_alphas_come_from_the_header_where_no_tensor_has_them(
    registry: Registry, weights: Weights, metadata: dict[str, str], alphas: str
) -> None:
    version = registry.add(weights(1, metadata=metadata), name="me/ink")
    assert registry.facts(version).alphas == alphas
    assert registry.facts(version).targets == "unet 1"


def test_alphas_and_ranks_of_a_peft_directory_come_from_its_config(
    registry: Registry, tmp_path: Path
) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(weights_bytes(1))
    config = {"r": 2, "lora_alpha": 4, "alpha_pattern": {MODULE: 6}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    version = registry.add(folder, name="me/ink", link=True)
    facts = registry.facts(version)
    assert (facts.ranks, facts.alphas) == ("2", "4 6")
    assert facts.linked == str(folder)
    for file in version.files:
        assert registry.blobs.path(file.sha256).samefile(folder / file.path)


def test_what_our_trainer_reports_is_kept_with_the_facts(registry: Registry, weights: Weights) -> None:
    report = {"steps": 200, "final_loss": 0.0123, "losses": [0.5], "environment": {"torch": "2"}}
    version = registry.add(
        weights(1), name="me/ink", documents={"run.json": json.dumps(report).encode(), "note.txt": b"x"}
    )
    assert registry.facts(version).metrics == {"steps": "200", "final_loss": "0.0123"}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what is read")
def test_facts_that_an_older_schema_left_out_are_read_from_the_header_alone(
    registry: Registry, weights: Weights
) -> None:
    path = weights(1, text_width=LARGE, metadata={"ss_steps": "7", "ss_network_alpha": "1"})
    version = registry.add(path, name="me/ink", base="mini")
    registry.add(path, name="me/gone", base="mini")
    expected = registry.facts(version)
    with sqlite3.connect(registry.home / "registry.db") as connection:
        connection.execute("UPDATE version SET alphas = '', targets = '', metrics = '{}'")
    before = bytes_read()
    assert registry.facts(version) == expected
    assert bytes_read() - before < path.stat().st_size / 4
    assert expected.metrics == {"steps": "7"}


def test_pulled_versions_have_the_same_facts(registry: Registry, weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    version = registry.add(
        weights(1, metadata={"ss_network_alpha": "3"}), name="me/ink", documents={"run.json": b'{"steps": 9}'}
    )
    other = Registry(tmp_path / "other")
    for place in (registry, other):
        place.add_remote("team", (tmp_path / "share").as_uri())
    registry.push("me/ink", remote="team", with_data=True)  # the documents say what was measured
    other.pull("team:me/ink")
    assert other.facts(other.resolve("me/ink")) == registry.facts(version)
