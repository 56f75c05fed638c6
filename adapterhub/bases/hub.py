"""Bases of the Hugging Face Hub, in its cache or fetched into it."""

from pathlib import Path

from adapterhub.errors import BaseNotFoundError, missing_extra
from adapterhub.settings import Settings


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form `owner/name` or `owner/name@revision`."""
    repository = name.partition("@")[0]
    return repository.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def hub_directory(name: str, variant: str | None, settings: Settings) -> Path:
    """Return the directory of a repository: offline from the cache, else brought up to date.

    Args:
        name: `owner/name`, or with `@` and a branch, tag or commit.
        variant: Of the weights files; None means the plain ones.
        settings: Says whether requests may leave the machine.

    Raises:
        BaseNotFoundError: It is not there, or cannot be fetched.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        if settings.is_offline:
            # The cache may hold the files of one variant alone, which `download` takes for a broken download.
            index = try_to_load_from_cache(repository, "model_index.json", revision=revision or None)
            if not isinstance(index, str):
                raise BaseNotFoundError(name, [*cached_pipelines()], "offline, and not in the cache")
            return Path(index).parent
        try:
            from diffusers.pipelines.pipeline_utils import DiffusionPipeline
        except ModuleNotFoundError as exc:
            raise missing_extra(exc) or exc from exc
        folder = DiffusionPipeline.download(
            repository,
            revision=revision or None,
            variant=variant,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as exc:
        raise BaseNotFoundError(name, [*cached_pipelines()], str(exc).splitlines()[0]) from exc
    return Path(folder)


def cached_pipelines() -> dict[str, Path]:
    """Return the newest snapshot of each pipeline in the cache, by name."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return {}
    found: dict[str, Path] = {}
    for repository in sorted(cache.repos, key=lambda repository: repository.repo_id):
        newest = max(repository.revisions, key=lambda revision: revision.last_modified)
        if (newest.snapshot_path / "model_index.json").exists():
            found[repository.repo_id] = newest.snapshot_path
    return found
