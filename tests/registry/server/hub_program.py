"""What a user of `huggingface_hub` does in a day, for every release of it; prints what was seen as JSON."""

import json
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, RepositoryNotFoundError


def main(folder: Path) -> dict[str, object]:
    api, seen = HfApi(), dict[str, object]()
    seen["client"] = huggingface_hub.__version__
    seen["me"] = api.whoami()["name"]
    seen["created"] = str(api.create_repo("acme/ink", private=True))
    api.create_repo("acme/ink", private=True, exist_ok=True)
    api.update_repo_settings("acme/ink", private=False)
    seen["empty"] = api.list_repo_files("acme/ink")

    first = api.upload_file(
        path_or_fileobj=folder / "ink.safetensors", path_in_repo="ink.safetensors", repo_id="acme/ink"
    )
    again = api.upload_file(
        path_or_fileobj=folder / "ink.safetensors", path_in_repo="ink.safetensors", repo_id="acme/ink"
    )
    seen["unchanged"] = first.oid == again.oid
    second = api.upload_folder(repo_id="acme/ink", folder_path=folder, commit_message="All of it")
    seen["folder again"] = api.upload_folder(repo_id="acme/ink", folder_path=folder).oid == second.oid
    seen["files"] = sorted(api.list_repo_files("acme/ink"))

    info = api.model_info("acme/ink", files_metadata=True)
    seen["info"] = {
        "id": info.id,
        "sha": info.sha == second.oid,
        "private": info.private,
        "tags": info.tags,
        "sizes": {item.rfilename: item.size for item in info.siblings or []},
        "lfs": {item.rfilename: item.lfs["sha256"] for item in info.siblings or [] if item.lfs},
        "licence": info.card_data["license"] if info.card_data else None,
    }
    seen["listed"] = [item.id for item in api.list_models(search="ink")]
    seen["filtered"] = [item.id for item in api.list_models(filter="watery", author="acme")]
    seen["tree"] = sorted(item.path for item in api.list_repo_tree("acme/ink", recursive=True))
    seen["paths"] = [item.path for item in api.get_paths_info("acme/ink", ["README.md", "none.txt", "more"])]
    seen["exists"] = [api.file_exists("acme/ink", name) for name in ("README.md", "none.txt")]

    path = api.hf_hub_download("acme/ink", "ink.safetensors")
    seen["downloaded"] = Path(path).read_bytes() == (folder / "ink.safetensors").read_bytes()
    whole = Path(api.snapshot_download("acme/ink"))
    seen["snapshot"] = sorted(str(item.relative_to(whole)) for item in whole.rglob("*") if item.is_file())

    api.create_tag("acme/ink", tag="prod", revision="v1")
    api.create_branch("acme/ink", branch="dev")
    api.upload_file(
        path_or_fileobj=b"draft", path_in_repo="more/notes.txt", repo_id="acme/ink", revision="dev"
    )
    refs = api.list_repo_refs("acme/ink")
    seen["refs"] = [[item.name for item in refs.branches], [item.name for item in refs.tags]]
    notes = api.hf_hub_download("acme/ink", "more/notes.txt", revision="dev")
    seen["notes"] = Path(notes).read_text()
    seen["prod"] = Path(api.hf_hub_download("acme/ink", "ink.safetensors", revision="prod")).name
    api.delete_branch("acme/ink", branch="dev")
    api.delete_tag("acme/ink", tag="prod")
    seen["commits"] = [item.title for item in api.list_repo_commits("acme/ink")]

    done = api.create_commit(
        "acme/ink",
        operations=[
            CommitOperationDelete("more/", is_folder=True),
            CommitOperationAdd("license.txt", b"take it"),
        ],
        commit_message="Tidy",
        parent_commit=second.oid,
    )
    seen["tidied"] = sorted(api.list_repo_files("acme/ink", revision=done.oid))
    refused: dict[str, str] = {}
    for name, content in (("train.bin", b"\x80\x04pickle"), ("x.safetensors", b"\x80\x04pickle")):
        try:
            api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="acme/ink")
        except BadRequestError as exc:
            refused[name] = str(exc)
    seen["refused"] = refused
    missing: list[str] = []
    for call in (
        lambda: api.model_info("acme/none"),
        lambda: api.hf_hub_download("acme/ink", "none.txt"),
        lambda: api.model_info("gpt2"),
    ):
        try:
            call()
        except (RepositoryNotFoundError, EntryNotFoundError) as exc:
            missing.append(type(exc).__name__)
    seen["missing"] = missing
    api.move_repo("acme/ink", "acme/wash")
    seen["moved"] = [api.model_info("acme/ink").id, Path(api.hf_hub_download("acme/ink", "README.md")).name]
    api.delete_repo("acme/wash")
    seen["gone"] = [api.repo_exists("acme/wash"), api.repo_exists("acme/ink")]
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1])), default=str))
