"""AdapterHub: a registry, a trainer and a runtime for SDXL LoRA adapters on one frozen base.

The names below are loaded when they are first used, so that `import adapterhub` stays cheap, without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adapterhub._version import __version__

_EXPORTS = {
    "AdapterHubError": "adapterhub.errors",
    "AdapterTensors": "adapterhub.lora.weights",
    "Base": "adapterhub.bases.find",
    "Box": "adapterhub.runtime.regions",
    "Composite": "adapterhub.runtime.schedule",
    "Composition": "adapterhub.runtime.composition",
    "Control": "adapterhub.runtime.start",
    "GenerationRecord": "adapterhub_registry.record",
    "Grid": "adapterhub.runtime.grid",
    "Job": "adapterhub.runtime.jobs",
    "KLora": "adapterhub.runtime.schedule",
    "Keyframes": "adapterhub.runtime.schedule",
    "Mask": "adapterhub.runtime.regions",
    "Merged": "adapterhub.runtime.schedule",
    "Regions": "adapterhub.runtime.regions",
    "Registry": "adapterhub_registry.store",
    "Request": "adapterhub.runtime.request",
    "Runtime": "adapterhub.runtime.engine",
    "Start": "adapterhub.runtime.start",
    "Switch": "adapterhub.runtime.schedule",
    "TrainConfig": "adapterhub.training.config",
    "Version": "adapterhub_registry.manifest",
    "compare": "adapterhub.derive",
    "compare_pictures": "adapterhub_registry.differences",
    "draw_grid": "adapterhub.runtime.grid",
    "export": "adapterhub.derive",
    "find_base": "adapterhub.bases.find",
    "list_bases": "adapterhub.bases.find",
    "load_into": "adapterhub.derive",
    "merge": "adapterhub.derive",
    "read_adapter": "adapterhub.formats.read",
    "read_lock": "adapterhub_registry.lockfile",
    "replay": "adapterhub.runtime.replay",
    "train": "adapterhub.training.train",
    "write_adapter": "adapterhub.formats.write",
}

__all__ = [
    "AdapterHubError",
    "AdapterTensors",
    "Base",
    "Box",
    "Composite",
    "Composition",
    "Control",
    "GenerationRecord",
    "Grid",
    "Job",
    "KLora",
    "Keyframes",
    "Mask",
    "Merged",
    "Regions",
    "Registry",
    "Request",
    "Runtime",
    "Start",
    "Switch",
    "TrainConfig",
    "Version",
    "__version__",
    "compare",
    "compare_pictures",
    "draw_grid",
    "export",
    "find_base",
    "list_bases",
    "load_into",
    "merge",
    "read_adapter",
    "read_lock",
    "replay",
    "train",
    "write_adapter",
]

if TYPE_CHECKING:
    from adapterhub.bases.find import Base as Base
    from adapterhub.bases.find import find_base as find_base
    from adapterhub.bases.find import list_bases as list_bases
    from adapterhub.derive import compare as compare
    from adapterhub.derive import export as export
    from adapterhub.derive import load_into as load_into
    from adapterhub.derive import merge as merge
    from adapterhub.errors import AdapterHubError as AdapterHubError
    from adapterhub.formats.read import read_adapter as read_adapter
    from adapterhub.formats.write import write_adapter as write_adapter
    from adapterhub.lora.weights import AdapterTensors as AdapterTensors
    from adapterhub.runtime.composition import Composition as Composition
    from adapterhub.runtime.engine import Runtime as Runtime
    from adapterhub.runtime.grid import Grid as Grid
    from adapterhub.runtime.grid import draw_grid as draw_grid
    from adapterhub.runtime.jobs import Job as Job
    from adapterhub.runtime.regions import Box as Box
    from adapterhub.runtime.regions import Mask as Mask
    from adapterhub.runtime.regions import Regions as Regions
    from adapterhub.runtime.replay import replay as replay
    from adapterhub.runtime.request import Request as Request
    from adapterhub.runtime.schedule import Composite as Composite
    from adapterhub.runtime.schedule import Keyframes as Keyframes
    from adapterhub.runtime.schedule import KLora as KLora
    from adapterhub.runtime.schedule import Merged as Merged
    from adapterhub.runtime.schedule import Switch as Switch
    from adapterhub.runtime.start import Control as Control
    from adapterhub.runtime.start import Start as Start
    from adapterhub.training.config import TrainConfig as TrainConfig
    from adapterhub.training.train import train as train
    from adapterhub_registry.differences import compare_pictures as compare_pictures
    from adapterhub_registry.lockfile import read_lock as read_lock
    from adapterhub_registry.manifest import Version as Version
    from adapterhub_registry.record import GenerationRecord as GenerationRecord
    from adapterhub_registry.store import Registry as Registry
else:
    # Kept from the type checkers: a visible module __getattr__ makes every typo valid.
    def __getattr__(name: str) -> Any:
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(import_module(_EXPORTS[name]), name)
        except ModuleNotFoundError as exc:
            from adapterhub.errors import missing_extra

            raise missing_extra(exc) or exc from exc

    def __dir__() -> list[str]:
        return __all__
