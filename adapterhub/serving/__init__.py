"""The runtime behind HTTP; it needs the extra `server`."""

from importlib.util import find_spec

from adapterhub.errors import MissingExtraError

for _module in ("starlette", "uvicorn"):
    if find_spec(_module) is None:
        raise MissingExtraError("server", _module)
