"""The quickstart's loop, with a few steps of training."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from adapterhub.errors import QuickstartError
from adapterhub.quickstart.loop import COLUMNS, CONFIG, ROWS, run_quickstart
from adapterhub.training.config import TrainConfig, ValidationConfig
from adapterhub.training.dataset import read_dataset, read_sources
from adapterhub.training.layers import NetworkConfig
from adapterhub_registry.record import read_record
from adapterhub_registry.store import Registry


def short() -> TrainConfig:
    config = TrainConfig.from_toml(CONFIG)
    adapters = tuple(
        replace(
            item,
            steps=2,
            batch_size=2,
            network=NetworkConfig(rank=2),
            validation=ValidationConfig(("a star",)),
        )
        for item in config.adapters
    )
    return replace(config, adapters=adapters)


def test_the_loop_trains_pushes_pulls_composes_and_draws(tmp_path: Path, home: Path) -> None:
    out = tmp_path / "out"
    result = run_quickstart(out, config=short())
    assert [(item.version.reference, item.kind) for item in result.trained] == [
        ("quickstart/stencil@1", "style"),
        ("quickstart/zork@1", "subject"),
    ]
    pulled, pushed = Registry(result.home), Registry(out / "home")
    for item in result.trained:
        assert item.version == pushed.resolve(item.version.reference)
        adapter = pulled.show(item.version.name)
        assert adapter.aliases == {"demo": 1}
        assert len(adapter.tags) == 2
        assert len(item.version.trigger_words) == 1
        assert len(pulled.previews(item.version)) == 1
    assert list(pulled.verify()) == []
    with Image.open(result.sheet) as sheet:
        assert sheet.width > len(COLUMNS) * 128
        assert sheet.height > len(ROWS) * 128
    both = read_record(out / "pictures" / "style+subject" / "zork.png")
    expected = [item.version.reference for item in result.trained]
    assert [entry["reference"] for entry in both.composition] == expected
    assert read_record(out / "pictures" / "base" / "zork.png").composition == []
    assert list(home.iterdir()) == []  # the user's own home is untouched

    with pytest.raises(QuickstartError, match="--again"):
        run_quickstart(out, config=short())
    assert (
        run_quickstart(out, config=short(), again=True).trained[0].version.digest
        == result.trained[0].version.digest
    )


def test_a_directory_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    for again in (False, True):
        with pytest.raises(QuickstartError, match="holds other things"):
            run_quickstart(tmp_path, again=again, config=short())
    assert (tmp_path / "precious.txt").read_text() == "x"


def test_the_shipped_config_and_pictures_are_whole_and_small() -> None:
    config = TrainConfig.from_toml(CONFIG)
    captions = set()
    for adapter in config.adapters:
        dataset = read_sources(adapter.sources)
        assert all(adapter.trigger_words[0] in item.caption for item in dataset.examples)
        captions |= {item.caption for item in dataset.examples}
    pictures = CONFIG.parent / "pictures"
    kept_out = {item.caption for item in read_dataset(pictures / "benchmark").examples}
    assert len(kept_out) == 16
    assert not kept_out & captions
    assert sum(path.stat().st_size for path in pictures.rglob("*.png")) < 2_000_000
