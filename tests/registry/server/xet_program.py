"""Pushes of `huggingface_hub` by Xet: each file of a folder in its order, and one with a wrong digest."""

import os
import sys
from pathlib import Path

import hf_xet
from huggingface_hub import HfApi, hf_hub_download


def main(folder: Path, name: str) -> str:
    """Return how the client tells what the server said of the wrong one."""
    api = HfApi()
    api.create_repo(name)
    for path in sorted(folder.iterdir()):
        done = api.upload_file(path_or_fileobj=path, path_in_repo="ink.safetensors", repo_id=name)
        found = hf_hub_download(name, "ink.safetensors", revision=done.oid)
        assert Path(found).read_bytes() == path.read_bytes(), path
    try:
        with hf_xet.XetSession().new_upload_commit(
            token_refresh_url=f"{os.environ['HF_ENDPOINT']}/api/models/{name}/xet-write-token/main",
            token_refresh_headers={"authorization": f"Bearer {os.environ['HF_TOKEN']}"},
        ) as commit:
            commit.start_upload_bytes(b"wrong" * 1000, sha256="0" * 64)
    except Exception as exc:  # noqa: BLE001
        return str(exc)
    return "nothing"


if __name__ == "__main__":
    sys.stdout.write(main(Path(sys.argv[1]), sys.argv[2]))
