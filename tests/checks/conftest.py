"""What several checks look at: the scripts of the documentation, and all modules."""

import pkgutil
from importlib import import_module, util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
PACKAGES = ("adapterhub", "adapterhub_registry", "adapterhub_cli")


def docs_script(name: str) -> ModuleType:
    """Import a script that lies in `docs`."""
    spec = util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def module_names() -> list[str]:
    """The packages and all modules in them, without those that run when they are imported."""
    found: list[str] = []
    for name in PACKAGES:
        package = import_module(name)
        found += [name, *(m.name for m in pkgutil.walk_packages(package.__path__, f"{name}."))]
    return [name for name in found if not name.endswith("__main__")]
