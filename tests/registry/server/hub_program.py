"""What a user of `huggingface_hub` does in a day, for every release of it; prints what was seen as JSON."""

import json
import sys
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import BadRequestError, EntryNotFoundError, RepositoryNotFoundError


def main(folder: Path, name: str) -> dict[str, object]:
    api, seen = HfApi(), dict[str, object]()
    seen["client"] = huggingface_hub.__version__
    seen["me"] = api.whoami()["name"]
    seen["created"] = str(api.create_repo(name, private=True))
    api.create_repo(name, private=True, exist_ok=True)
    api.update_repo_settings(name, private=False)
    seen["empty"] = api.list_repo_files(name)

    first = api.upload_file(
        path_or_fileobj=folder / "ink.safetensors", path_in_repo="ink.safetensors", repo_id=name
    )
    again = api.upload_file(
        path_or_fileobj=folder / "ink.safetensors", path_in_repo="ink.safetensors", repo_id=name
    )
    seen["unchanged"] = first.oid == again.oid
    second = api.upload_folder(repo_id=name, folder_path=folder, commit_message="All of it")
    seen["folder again"] = api.upload_folder(repo_id=name, folder_path=folder).oid == second.oid
    seen["files"] = sorted(api.list_repo_files(name))

    info = api.model_info(name, files_metadata=True)
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
    seen["tree"] = sorted(item.path for item in api.list_repo_tree(name, recursive=True))
    seen["paths"] = [item.path for item in api.get_paths_info(name, ["README.md", "none.txt", "more"])]
    seen["exists"] = [api.file_exists(name, path) for path in ("README.md", "none.txt")]

    path = api.hf_hub_download(name, "ink.safetensors")
    seen["downloaded"] = Path(path).read_bytes() == (folder / "ink.safetensors").read_bytes()
    whole = Path(api.snapshot_download(name))
    seen["snapshot"] = sorted(str(item.relative_to(whole)) for item in whole.rglob("*") if item.is_file())

    api.create_tag(name, tag="prod", revision="v1")
    api.create_branch(name, branch="dev")
    api.upload_file(path_or_fileobj=b"draft", path_in_repo="more/notes.txt", repo_id=name, revision="dev")
    refs = api.list_repo_refs(name)
    seen["refs"] = [[item.name for item in refs.branches], [item.name for item in refs.tags]]
    notes = api.hf_hub_download(name, "more/notes.txt", revision="dev")
    seen["notes"] = Path(notes).read_text()
    seen["prod"] = Path(api.hf_hub_download(name, "ink.safetensors", revision="prod")).name
    api.delete_branch(name, branch="dev")
    api.delete_tag(name, tag="prod")
    seen["commits"] = [item.title for item in api.list_repo_commits(name)]

    done = api.create_commit(
        name,
        operations=[
            CommitOperationDelete("more/", is_folder=True),
            CommitOperationAdd("license.txt", b"take it"),
        ],
        commit_message="Tidy",
        parent_commit=second.oid,
    )
    seen["tidied"] = sorted(api.list_repo_files(name, revision=done.oid))
    refused: dict[str, str] = {}
    for path, content in (("train.bin", b"\x80\x04pickle"), ("x.safetensors", b"\x80\x04pickle")):
        try:
            api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name)
        except BadRequestError as exc:
            refused[path] = str(exc)
    seen["refused"] = refused
    missing: list[str] = []
    for call in (
        lambda: api.model_info("acme/none"),
        lambda: api.hf_hub_download(name, "none.txt"),
        lambda: api.model_info("gpt2"),
    ):
        try:
            call()
        except (RepositoryNotFoundError, EntryNotFoundError) as exc:
            missing.append(type(exc).__name__)
    seen["missing"] = missing
    api.move_repo(name, f"{name}-moved")
    seen["moved"] = [api.model_info(name).id, Path(api.hf_hub_download(name, "README.md")).name]
    api.delete_repo(f"{name}-moved")
    seen["gone"] = [api.repo_exists(f"{name}-moved"), api.repo_exists(name)]
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2]), default=str))
