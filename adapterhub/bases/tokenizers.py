"""CLIP's tokenizer from the bundled merges, for checkpoints that bring no vocabulary."""

import gzip
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

MERGES = Path(__file__).with_name("sdxl") / "merges.txt.gz"
VOCABULARY_FILES = ("tokenizer.json", "vocab.json")


def load_tokenizer(folder: Path) -> "CLIPTokenizer":
    """Load the tokenizer of a folder that holds `tokenizer_config.json`.

    Where the folder has no vocabulary, it is CLIP's: the 256 bytes, each alone and at the end of a word, then
    one token for each of the 48,894 merges in their order, then the two special tokens.
    """
    from transformers import CLIPTokenizer

    if any((folder / name).is_file() for name in VOCABULARY_FILES):
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    merges = gzip.decompress(MERGES.read_bytes()).decode()
    # By way of files, because the class takes paths in one release of transformers and tables in the next.
    with TemporaryDirectory() as name:
        made = Path(name)
        (made / "merges.txt").write_text(merges, encoding="utf-8")
        (made / "vocab.json").write_text(json.dumps(_vocabulary(merges)), encoding="utf-8")
        shutil.copy(folder / "tokenizer_config.json", made)
        return CLIPTokenizer.from_pretrained(made, local_files_only=True)


def _vocabulary(merges: str) -> dict[str, int]:
    # Bytes that print are written as themselves, and come first; the others as the letters from 256 on.
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [*map(chr, shown), *(chr(256 + count) for count in range(256 - len(shown)))]
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(pair.replace(" ", "") for pair in merges.splitlines()[1:]),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return {token: number for number, token in enumerate(tokens)}
