"""AdapterHub: a registry, a trainer and a runtime for SDXL LoRA adapters on one frozen base.

The names below are loaded when they are first used, so that `import adapterhub` stays cheap, without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adapterhub._version import __version__

_EXPORTS = {
    "AdapterHubError": "adapterhub.errors",
    "Base": "adapterhub.bases.find",
    "Composition": "adapterhub.runtime.composition",
    "GenerationRecord": "adapterhub_registry.record",
    "Runtime": "adapterhub.runtime.engine",
    "find_base": "adapterhub.bases.find",
    "list_bases": "adapterhub.bases.find",
    "replay": "adapterhub.runtime.replay",
}

__all__ = [
    "AdapterHubError",
    "Base",
    "Composition",
    "GenerationRecord",
    "Runtime",
    "__version__",
    "find_base",
    "list_bases",
    "replay",
]

if TYPE_CHECKING:
    from adapterhub.bases.find import Base as Base
    from adapterhub.bases.find import find_base as find_base
    from adapterhub.bases.find import list_bases as list_bases
    from adapterhub.errors import AdapterHubError as AdapterHubError
    from adapterhub.runtime.composition import Composition as Composition
    from adapterhub.runtime.engine import Runtime as Runtime
    from adapterhub.runtime.replay import replay as replay
    from adapterhub_registry.record import GenerationRecord as GenerationRecord
else:
    # Kept from the type checkers: a visible module __getattr__ makes every typo valid.
    def __getattr__(name: str) -> Any:
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_EXPORTS[name]), name)

    def __dir__() -> list[str]:
        return __all__
