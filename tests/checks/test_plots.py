"""The plots of the documentation show the committed results of the benchmarks."""

from types import ModuleType

import pytest

from tests.checks.conftest import ROOT, docs_script


@pytest.fixture(scope="module")
def plotter(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MPLCONFIGDIR", str(tmp_path_factory.mktemp("fonts")))
        return docs_script("plots")


def test_plots_are_as_the_results_are(plotter: ModuleType) -> None:
    drawn = plotter.plots()
    assert sorted(drawn) == sorted(path.name for path in plotter.FOLDER.glob("*.svg"))
    for name, text in drawn.items():
        assert (plotter.FOLDER / name).read_text() == text, "run: python docs/plots.py"


def test_every_picture_of_the_explanations_is_on_a_page_and_brings_all_it_needs() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    for folder in ("plots", "diagrams"):
        for picture in sorted((ROOT / "docs" / "pictures" / folder).iterdir()):
            assert f"pictures/{folder}/{picture.name})" in pages
            text = picture.read_text().replace("http://www.w3.org/", "")
            assert not any(word in text for word in ("http", "@import", "@font-face", "<image", "<script"))
