"""What clients of AUTOMATIC1111's web UI call: `/sdapi/v1/txt2img`, and what they ask before it.

The names are those of the web UI's release 1.10. Fields that would change the picture in a way that there is
not here are refused; others that have no meaning here are ignored, as its own server ignores what it does not
know.
"""

import json
from collections.abc import Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from adapterhub.errors import SettingError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.jobs import Job
from adapterhub.runtime.result import GenerationResult
from adapterhub.serving.adapters import fitting_adapters
from adapterhub.serving.failures import json_answer
from adapterhub.serving.fields import Fields, read_fields
from adapterhub.serving.gate import tenant_of
from adapterhub.serving.generate import picture_entry
from adapterhub.serving.limits import RequestLimits
from adapterhub.serving.live_jobs import LiveJobs, while_connected
from adapterhub.serving.orders import read_order
from adapterhub.serving.samplers import SAMPLERS, SCHEDULE_TYPES, scheduler_of
from adapterhub_registry.record import parameters_text

REFUSED = ("enable_hr", "restore_faces", "tiling", "subseed_strength", "styles", "script_name")
"""What would change the picture; refused where it is on."""


class WebUiApi:
    """The web UI's names for what our own API does.

    Args:
        runtime: What makes pictures.
        live: Its jobs.
        limits: What one request may ask for.
        plane: Where adapters act; None for the best.
    """

    def __init__(
        self, runtime: Runtime, live: LiveJobs, limits: RequestLimits, *, plane: str | None = None
    ) -> None:
        self._runtime = runtime
        self._live = live
        self._limits = limits
        self._plane = plane
        self._shown: dict[str, list[Job]] = {}

    async def txt2img(self, request: Request) -> Response:
        """Answer with pictures in base64, each a PNG with the web UI's lines inside."""
        fields = await read_fields(request, self._limits)
        given = fields.rest()
        own = Fields(_translated(Fields(given, self._limits)), self._limits)
        own_size = self._runtime.default_size
        order = await run_in_threadpool(read_order, own, self._limits, own_size=own_size, plane=self._plane)
        tenant = tenant_of(request)
        jobs = await self._live.submit(order, tenant=tenant)
        self._shown[tenant] = [*self._shown.get(tenant, ()), *jobs]

        async def answer() -> Response:
            results = await self._live.results(jobs)
            entries = [await run_in_threadpool(picture_entry, result, "png") for result in results]
            sampler = SAMPLERS.get(order.requests[0].scheduler or "")
            info = json.dumps(_info(results, self._runtime.base.name, sampler))
            return json_answer(
                {"images": [one["data"] for one in entries], "parameters": given, "info": info}
            )

        try:
            return await while_connected(request.receive, answer())
        finally:
            self._live.release(jobs)
            left = [job for job in self._shown[tenant] if job not in jobs]
            if left:
                self._shown[tenant] = left
            else:
                del self._shown[tenant]

    async def progress(self, request: Request) -> Response:
        """Answer with how far the pictures of this user are."""
        jobs = self._shown.get(tenant_of(request), [])
        steps = sum(job.request.steps for job in jobs)
        done = sum(_done(job) for job in jobs)
        state = {"job_count": len(jobs), "job_no": 0, "sampling_step": done, "sampling_steps": steps}
        state |= {"skipped": False, "interrupted": False, "job": "txt2img" if jobs else ""}
        part = done / steps if steps else 0.0
        return json_answer({"progress": part, "eta_relative": 0.0, "state": state, "current_image": None})

    async def interrupt(self, request: Request) -> Response:
        """Cancel the pictures of this user."""
        for job in self._shown.get(tenant_of(request), []):
            job.ask_to_end("it was interrupted")
        return json_answer({})

    async def options(self, request: Request) -> Response:
        """Answer with the options that clients look for."""
        del request
        title = await run_in_threadpool(self._title)
        return json_answer({"sd_model_checkpoint": title, "sd_checkpoint_hash": self._hash()})

    async def set_options(self, request: Request) -> Response:
        """Take options, of which only the checkpoint has a meaning: it must be the base that is loaded."""
        fields = await read_fields(request, self._limits)
        asked = fields.text("sd_model_checkpoint", "")
        title = await run_in_threadpool(self._title)
        if asked not in ("", title, self._runtime.base.name):
            rule = f"this server has {title} loaded; name adapters as <lora:name:weight> in the prompt"
            raise SettingError("sd_model_checkpoint", ascii(asked)[:80], rule)
        return json_answer(None)

    async def models(self, request: Request) -> Response:
        """Answer with the base."""
        del request
        title = await run_in_threadpool(self._title)
        name, digest = self._runtime.base.name, self._hash()
        entry = {"title": title, "model_name": name, "hash": digest[:10], "sha256": digest}
        return json_answer([entry | {"filename": name, "config": None}])

    async def loras(self, request: Request) -> Response:
        """Answer with the adapters that fit; `<lora:name:weight>` takes these names."""
        del request
        adapters = await run_in_threadpool(lambda: list(fitting_adapters(self._runtime)))
        return json_answer(
            [
                {"name": one.name, "alias": one.title or one.name, "path": "", "metadata": {}}
                for one in adapters
            ]
        )

    async def samplers(self, request: Request) -> Response:
        """Answer with the samplers' names."""
        del request
        return json_answer(
            [{"name": name, "aliases": [own], "options": {}} for own, name in SAMPLERS.items()]
        )

    async def schedulers(self, request: Request) -> Response:
        """Answer with the schedule types."""
        del request
        return json_answer(
            [{"name": name.lower(), "label": name, "aliases": None} for name in SCHEDULE_TYPES]
        )

    async def scripts(self, request: Request) -> Response:
        """Answer that there are no scripts."""
        del request
        return json_answer({"txt2img": [], "img2img": []})

    async def nothing(self, request: Request) -> Response:
        """Answer that there are none of these: upscalers, VAEs, styles."""
        del request
        return json_answer([])

    def _hash(self) -> str:
        return self._runtime.base.identity.removeprefix("sha256:")

    def _title(self) -> str:
        """Return the base's name with its hash, which takes a while the first time a large base is seen."""
        return f"{self._runtime.base.name} [{self._hash()[:10]}]"


def _translated(fields: Fields) -> dict[str, Any]:
    """Return the body in our own names.

    Raises:
        SettingError: It asks for what there is not.
    """
    seed = fields.whole("seed", -1)
    scheduler = scheduler_of(
        fields.text("sampler_name", None) or fields.text("sampler_index", None),
        fields.text("scheduler", None),
    )
    table = {
        "prompt": fields.text("prompt", ""),
        "negative_prompt": fields.text("negative_prompt", "") or None,
        "seed": None if seed == -1 else seed,
        "steps": fields.whole("steps", 50),
        "guidance_scale": fields.number("cfg_scale", 7.0),
        "width": fields.whole("width", None),
        "height": fields.whole("height", None),
        "count": fields.whole("batch_size", 1) * fields.whole("n_iter", 1),
        "scheduler": scheduler,
    }
    rest = fields.rest()
    scripts = rest.get("alwayson_scripts")
    active = [name for name, one in scripts.items() if one] if isinstance(scripts, dict) else []
    asked = [name for name in REFUSED if rest.get(name)] + active
    if asked:
        raise SettingError(asked[0], "on", "this server does not have it; leave it out")
    return table


def _info(results: Sequence[GenerationResult], model: str, sampler: str | None) -> dict[str, Any]:
    """Return what the web UI says of pictures."""
    records = [result.record for result in results]
    first = records[0]
    seeds = [record.seed for record in records]
    return {
        "prompt": first.prompt,
        "all_prompts": [record.prompt for record in records],
        "negative_prompt": first.negative_prompt or "",
        "all_negative_prompts": [record.negative_prompt or "" for record in records],
        "seed": first.seed,
        "all_seeds": seeds,
        "subseed": first.seed,
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": sampler or first.scheduler.get("class", ""),
        "cfg_scale": first.guidance_scale,
        "steps": first.steps,
        "batch_size": len(records),
        "sd_model_name": model,
        "sd_model_hash": first.base.identity.removeprefix("sha256:")[:10],
        "infotexts": [parameters_text(record) for record in records],
        "index_of_first_image": 0,
        "extra_generation_params": {},
        "styles": [],
    }


def _done(job: Job) -> int:
    progress = job.newest(None)
    return job.request.steps if job.is_ended else progress.done if progress else 0
