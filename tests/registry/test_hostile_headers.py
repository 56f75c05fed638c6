"""Headers that are made to mislead are refused, in bounded memory, and never taken for something else."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapterhub_registry.errors import WeightsError
from adapterhub_registry.safetensors_header import read_header
from tests.registry.hostile_headers import Hostile, hostile_headers

HOSTILE = list(hostile_headers())
EXTRA_BYTES = 64 << 20


@pytest.mark.parametrize("hostile", HOSTILE, ids=[item.name for item in HOSTILE])
def test_a_hostile_header_is_refused(hostile: Hostile, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    hostile.write(path)
    with pytest.raises(WeightsError) as caught:
        read_header(path)
    assert caught.value.path == path
    assert len(str(caught.value)) < 1000


def test_there_are_enough_of_them() -> None:
    assert len({item.name for item in HOSTILE}) == len(HOSTILE) >= 64


def test_no_hostile_header_takes_more_than_64_mib(tmp_path: Path) -> None:
    for number, hostile in enumerate(HOSTILE):
        hostile.write(tmp_path / str(number))
    program = (
        "import re, resource, sys; from pathlib import Path\n"
        "from adapterhub_registry.errors import WeightsError\n"
        "from adapterhub_registry.safetensors_header import read_header\n"
        "used = 1024 * int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {EXTRA_BYTES},) * 2)\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: read_header(path)\n"
        "    except WeightsError: print(path.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert len(done.stdout.split()) == len(HOSTILE)
