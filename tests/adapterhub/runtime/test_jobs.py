"""Jobs: many at once, each as if it were alone; fair, cancelled, late, refused or failed in order."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from adapterhub.errors import (
    AdapterNotFoundError,
    CompositionError,
    DeadlineError,
    InvalidSizeError,
    JobCancelledError,
    NotFiniteError,
    PictureMemoryError,
    PlaneError,
    QueueFullError,
    RuntimeClosedError,
    SettingError,
)
from adapterhub.formats.diffusers import diffusers_bytes
from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.jobs import Job, Progress
from adapterhub.runtime.regions import Mask, Regions
from adapterhub.runtime.request import Request
from adapterhub.runtime.result import GenerationResult
from adapterhub_registry.errors import TombstoneError
from adapterhub_registry.store import Registry
from tests.adapterhub.runtime.conftest import busy, random_adapter, weights

pytestmark = pytest.mark.usefixtures("base_again")


def base_digest(runtime: Runtime) -> str:
    """The SHA-256 of all weights with nothing composed; a batch that ends now is over then."""
    runtime.compose(None)
    hashed = hashlib.sha256()
    for value in weights(runtime).values():
        hashed.update(value.numpy().tobytes())
    return hashed.hexdigest()


def differ(one: GenerationResult, other: GenerationResult) -> int:
    """By how much of 255 two pictures differ at most."""
    first, second = (np.asarray(result.images[0]).astype(int) for result in (one, other))
    return int(np.abs(first - second).max())


@contextmanager
def before_calls(runtime: Runtime, function: Callable[[int, int], None]) -> Iterator[None]:
    """Call a function before each UNet call, with its number from 1 and how many rows it has."""
    count = 0

    def hook(_: Any, inputs: Any) -> None:
        nonlocal count
        count += 1
        function(count, len(inputs[0]))

    handle = runtime.pipeline.unet.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


async def awaited(job: Job) -> GenerationResult:
    return await job


def wait_until_past(deadline: float) -> None:
    while time.monotonic() <= deadline:
        threading.Event().wait(0.01)


@contextmanager
def latents_of(runtime: Runtime) -> Iterator[list[torch.Tensor]]:
    """Collect the final latents of all pictures that are decoded."""
    found: list[torch.Tensor] = []
    handle = runtime.pipeline.vae.post_quant_conv.register_forward_pre_hook(
        lambda _, inputs: found.extend(inputs[0].detach().clone())
    )
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize(("count", "stacks"), [(7, 4), pytest.param(64, 20, marks=pytest.mark.long)])
def test_jobs_of_threads_and_tasks_are_as_if_each_were_alone(
    runtime: Runtime, count: int, stacks: int
) -> None:
    before = base_digest(runtime)
    compositions = [
        f"me/ink:{0.2 + 0.04 * n} + me/corgi:{-0.3 + 0.05 * n}" + (" + me/words:0.5" if n % 3 == 0 else "")
        for n in range(stacks)
    ]
    asked = [
        {"prompt": f"a star {n % 5}", "composition": compositions[n % stacks], "seed": n, "steps": 3}
        for n in range(count)
    ]

    submitted = threading.Semaphore(0)

    def from_thread(settings: dict[str, Any]) -> GenerationResult:
        job = runtime.submit(**settings, tenant="threads")
        submitted.release()
        return job.result()

    async def from_tasks(settings: list[dict[str, Any]]) -> list[GenerationResult]:
        async def one(each: dict[str, Any]) -> GenerationResult:
            job = runtime.submit(**each, tenant="tasks")
            submitted.release()
            return await job

        return await asyncio.gather(*map(one, settings))

    with latents_of(runtime) as together, ThreadPoolExecutor(count) as pool:
        with busy(runtime):
            tasks = pool.submit(lambda: asyncio.run(from_tasks(asked[::2])))
            threads = [pool.submit(from_thread, settings) for settings in asked[1::2]]
            for _ in asked:
                submitted.acquire()
        made: list[Any] = [None] * count
        made[::2], made[1::2] = tasks.result(), [future.result() for future in threads]
    with latents_of(runtime) as alone:
        solos = [runtime.generate(**settings) for settings in asked]
    assert max(result.record.batch_size for result in made) > 1
    for result, solo, latents in zip(made, solos, alone, strict=True):
        assert result.record.seed == solo.record.seed
        assert result.record.composition == solo.record.composition
        assert differ(result, solo) <= 1
        # Final latents across planes agree within 1e-4, across batch shapes within 1e-5.
        nearest = min(float((one - latents).abs().max() / latents.abs().max()) for one in together)
        assert nearest <= (1e-5 if result.record.plane == solo.record.plane else 1e-4)
    assert base_digest(runtime) == before


def test_jobs_with_one_composition_are_one_batch_on_the_fused_plane(runtime: Runtime) -> None:
    with busy(runtime):
        jobs = [runtime.submit("a star", composition="me/ink", seed=n, steps=3) for n in range(3)]
        assert [job.state for job in jobs] == ["queued"] * 3
    results = [job.result() for job in jobs]
    solos = [runtime.generate("a star", composition="me/ink", seed=n, steps=3) for n in range(3)]
    assert [differ(result, solo) <= 1 for result, solo in zip(results, solos, strict=True)] == [True] * 3
    records = [result.record for result in results]
    assert [(r.plane, r.batch_size, r.batch_row) for r in records] == [("fused", 3, n) for n in range(3)]
    assert [job.state for job in jobs] == ["done"] * 3
    assert all(job.wait_seconds > 0 for job in jobs)


def test_many_threads_and_event_loops_may_wait_for_one_job(runtime: Runtime) -> None:
    with ThreadPoolExecutor(4) as pool, busy(runtime):
        job = runtime.submit("a star", seed=1, steps=2)
        waiting = [pool.submit(job.result), pool.submit(job.result, 60)]
        waiting += [pool.submit(lambda: asyncio.run(awaited(job))) for _ in range(2)]
    assert {id(future.result()) for future in waiting} == {id(job.result())}


def test_what_is_left_out_is_what_was_composed_when_the_job_was_submitted(runtime: Runtime) -> None:
    runtime.compose("me/ink:0.7", plane="low_rank")
    with busy(runtime):
        job = runtime.submit("a star", seed=5, steps=3)
        thread = threading.Thread(target=runtime.compose, args=("me/corgi",))
        thread.start()
    thread.join()
    result, solo = job.result(), runtime.generate("a star", composition="me/ink:0.7", seed=5, steps=3)
    assert result.record.composition == solo.record.composition
    assert result.record.plane == "low_rank"
    assert differ(result, solo) <= 1
    assert str(runtime.composition) == "me/corgi:1.0"


def test_an_alias_that_moves_later_changes_nothing(registry: Registry, runtime: Runtime) -> None:
    path = registry.home / "second.safetensors"
    path.write_bytes(diffusers_bytes(random_adapter(runtime, 8)))
    registry.add(path, name="me/corgi", base="mini")
    registry.set_alias("me/corgi", "prod", 1)
    with busy(runtime):
        job = runtime.submit("a star", composition="me/corgi@prod", seed=5, steps=1)
        registry.set_alias("me/corgi", "prod", 2)
    assert job.result().record.composition[0]["reference"] == "me/corgi@1"


def test_a_request_may_be_submitted_and_settings_go_before_its_own(runtime: Runtime) -> None:
    request = Request("a star", composition=Composition.parse("me/ink"), seed=4, steps=9)
    record = runtime.submit(request, steps=1).result().record
    assert (record.prompt, record.seed, record.steps) == ("a star", 4, 1)
    assert record.composition[0]["reference"] == "me/ink@1"
    assert runtime.submit(request, steps=1, composition=None).result().record.composition == []


def test_progress_counts_steps_and_shows_previews(runtime: Runtime) -> None:
    seen: list[Progress] = []
    job = runtime.submit("a star", seed=3, steps=5, preview_every=2)
    seen.extend(job.progress())
    assert seen[-1].done == seen[-1].steps == 5
    assert [progress.done for progress in seen] == sorted({progress.done for progress in seen})
    preview = seen[-1].preview
    assert preview is not None
    assert preview.size == (64, 64)
    assert preview.tobytes() != job.result().images[0].tobytes()
    assert [progress.done for progress in job.progress()] == [5]  # who comes late sees what is newest

    async def watch() -> list[int]:
        other = runtime.submit("a star", seed=3, steps=3)
        return [progress.done async for progress in other.progress()]

    assert asyncio.run(watch())[-1] == 3


def test_previews_are_made_only_for_those_who_ask(runtime: Runtime) -> None:
    with busy(runtime):
        watched = runtime.submit("a star", seed=1, steps=4, preview_every=1)
        other = runtime.submit("a star", seed=2, steps=4)
        decoded: list[int] = []
        handle = runtime.pipeline.vae.post_quant_conv.register_forward_pre_hook(
            lambda _, inputs: decoded.append(len(inputs[0]))
        )
    assert watched.result().record.batch_size == 2
    assert [progress.preview for progress in other.progress()] == [None]
    handle.remove()
    assert decoded[-4:] == [1, 1, 1, 2]


def test_a_job_that_is_cancelled_ends_with_its_step_and_its_batch_goes_on(runtime: Runtime) -> None:
    with before_calls(runtime, lambda call, _: call == 4 and first.cancel()):
        with busy(runtime):  # the first call
            first, second = (runtime.submit("a star", seed=n, steps=5) for n in (1, 2))
        second.result()
    with pytest.raises(JobCancelledError) as caught:
        first.result()
    assert caught.value.reason == ""
    assert (first.state, second.state) == ("cancelled", "done")
    assert [progress.done for progress in first.progress()] == [2]
    assert differ(second.result(), runtime.generate("a star", seed=2, steps=5)) <= 1
    assert (first.cancel(), second.cancel()) == (True, False)


def test_a_batch_that_nobody_waits_for_ends(runtime: Runtime) -> None:
    before, calls = base_digest(runtime), list[int]()

    def cancel(call: int, _: int) -> None:
        calls.append(call)
        if call == 2:
            assert [job.cancel() for job in jobs] == [True, True]

    with before_calls(runtime, cancel):
        with busy(runtime):
            jobs = [runtime.submit("a star", composition="me/ink", seed=n, steps=20) for n in (1, 2)]
        for job in jobs:
            with pytest.raises(JobCancelledError):
                job.result()
    assert calls == [1, 2]  # the first one was for the picture before
    assert base_digest(runtime) == before


def test_a_job_that_waits_is_cancelled_at_once(runtime: Runtime) -> None:
    with busy(runtime):
        job = runtime.submit("a star", steps=1)
        assert job.cancel()
        with pytest.raises(JobCancelledError):
            job.result()
        assert job.state == "cancelled"
        assert list(job.progress()) == []


def test_a_task_that_is_cancelled_cancels_its_job(runtime: Runtime) -> None:
    async def impatient(job: Job) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(awaited(job), timeout=0.01)

    with busy(runtime):
        job = runtime.submit("a star", steps=1)
        asyncio.run(impatient(job))
        assert job.state == "cancelled"


def test_waiting_may_end_before_the_job_does(runtime: Runtime) -> None:
    with busy(runtime):
        job = runtime.submit("a star", seed=1, steps=1)
        with pytest.raises(TimeoutError):
            job.result(timeout_s=0.01)
    assert job.result().record.seed == 1


def test_a_deadline_may_pass_in_the_queue(runtime: Runtime) -> None:
    with busy(runtime):
        late = runtime.submit("a star", steps=4, deadline_s=0.02)
        in_time = runtime.submit("a star", steps=4, deadline_s=3600)
        wait_until_past(time.monotonic() + 0.02)
    with pytest.raises(DeadlineError) as caught:
        late.result()
    assert (caught.value.deadline_s, caught.value.done, caught.value.steps) == (0.02, 0, 4)
    assert late.state == "failed"
    assert in_time.result().record.batch_size == 1


def test_a_deadline_may_pass_in_the_queue_while_others_are_made(runtime: Runtime) -> None:
    late: list[Job] = []
    states: list[str] = []

    def submit_late(call: int, _: int) -> None:
        if call == 1:
            late.append(runtime.submit("a fish", steps=4, deadline_s=0.02))
            wait_until_past(time.monotonic() + 0.02)
        else:
            states.append(late[0].state)

    with before_calls(runtime, submit_late):
        runtime.submit("a star", steps=2).result()
    assert states == ["failed"]


def test_a_deadline_may_pass_between_steps(runtime: Runtime) -> None:
    with before_calls(runtime, lambda call, _: call == 3 and wait_until_past(end)):
        with busy(runtime):  # the first call
            late = runtime.submit("a star", seed=1, steps=4, deadline_s=2)
            other = runtime.submit("a star", seed=2, steps=4)
            end = time.monotonic() + 2
        assert other.result().record.batch_size == 2
    with pytest.raises(DeadlineError) as caught:
        late.result()
    assert (caught.value.done, caught.value.steps) == (1, 4)


def test_a_full_queue_says_when_to_come_again() -> None:
    with Runtime.load("mini", device="cpu", queue_limit=3, tenant_limit=2) as small:
        with busy(small):
            jobs = [small.submit("a star", steps=1, tenant="a") for _ in range(2)]
            with pytest.raises(QueueFullError) as caught:
                small.submit("a star", steps=1, tenant="a")
            assert (caught.value.limit, caught.value.tenant) == (2, "a")
            jobs.append(small.submit("a star", steps=1, tenant="b"))
            with pytest.raises(QueueFullError) as caught:
                small.submit("a star", steps=1, tenant="b")
            assert (caught.value.limit, caught.value.tenant) == (3, None)
            assert caught.value.retry_after_s >= 1
            jobs.pop().cancel()
            jobs.append(small.submit("a star", steps=1, tenant="c"))
        assert [len(job.result().images) for job in jobs] == [1, 1, 1]
    with pytest.raises(SettingError) as wrong:
        Runtime.load("mini", device="cpu", queue_limit=0)
    assert wrong.value.setting == "queue_limit"


def test_closing_cancels_what_waits_and_what_runs() -> None:
    begun = threading.Event()
    with Runtime.load("mini", device="cpu", max_batch=1) as small:
        handle = small.pipeline.unet.register_forward_pre_hook(lambda *_: begun.set())
        jobs = [small.submit("a star", steps=1000) for _ in range(3)]
        begun.wait()
        assert [job.state for job in jobs] == ["running", "queued", "queued"]
        handle.remove()
    for job in jobs:
        with pytest.raises(JobCancelledError) as caught:
            job.result(timeout_s=0)
        assert "closed" in caught.value.reason
    with pytest.raises(RuntimeClosedError):
        small.submit("a star")


def test_a_tenant_with_one_job_does_not_wait_for_another_tenants_flood(runtime: Runtime) -> None:
    single: list[Job] = []

    def stop(_: int, __: int) -> None:
        if single and single[0].is_ended:
            for job in flood:
                job.cancel()

    with before_calls(runtime, stop):
        with busy(runtime):
            flood = [runtime.submit("a star", seed=n, steps=3, tenant="flood") for n in range(40)]
            single.append(runtime.submit("a fish", seed=1, steps=2, tenant="single"))
        for job in flood:
            _ = list(job.progress())
    assert single[0].state == "done"
    # A turn is worth one picture of 30 steps: 10 of these, which are at most two batches of 8.
    assert [job.state for job in flood].count("done") <= 2 * 8


def test_what_is_wrong_with_a_request_is_said_at_once(runtime: Runtime) -> None:
    mask = Mask.of(runtime.generate("a star", seed=1, steps=1).images[0])
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (AdapterNotFoundError, {"composition": "me/nobody"}),
        (CompositionError, {"composition": "me/ink +"}),
        (InvalidSizeError, {"width": 63}),
        (SettingError, {"steps": 0}),
        (SettingError, {"scheduler": "nothing"}),
        (SettingError, {"deadline_s": 0}),
        (SettingError, {"preview_every": -1}),
        (PlaneError, {"plane": "nowhere"}),
        (SettingError, {"composition": Regions(((Composition.parse("me/ink"), mask),)), "width": 128}),
    ]
    for kind, settings in wrong:
        with pytest.raises(kind):
            runtime.submit("a star", **settings)


def test_a_bad_job_fails_alone(registry: Registry, runtime: Runtime) -> None:
    tensors = random_adapter(runtime, 9)
    for name in ("deleted", "broken"):
        path = registry.home / f"{name}.safetensors"
        path.write_bytes(diffusers_bytes(tensors))
        registry.add(path, name=f"me/{name}", base="mini")
        next(iter(tensors.low_rank().values())).up[0, 0] = float("nan")
    with busy(runtime):
        names = ("me/ink", "me/broken", "me/deleted", "me/corgi")
        jobs = [runtime.submit("a star", composition=name, seed=1, steps=3) for name in names]
        registry.delete("me/deleted@1")
    good = [jobs[0].result(), jobs[3].result()]
    assert [result.record.batch_size for result in good] == [2, 2]
    for name, result in zip(("me/ink", "me/corgi"), good, strict=True):
        assert differ(result, runtime.generate("a star", composition=name, seed=1, steps=3)) <= 1
    with pytest.raises(NotFiniteError):
        jobs[1].result()
    with pytest.raises(TombstoneError):
        jobs[2].result()


def test_what_cannot_be_made_fails_and_the_rest_of_its_batch_is_made(runtime: Runtime) -> None:
    before, failing = base_digest(runtime), [True]

    def fail(call: int, _: int) -> None:
        if failing[0] and call > 1:
            raise RuntimeError("a fault of the device")

    with before_calls(runtime, fail):
        job = runtime.submit("a star", composition="me/ink", seed=1, steps=3)
        with pytest.raises(RuntimeError, match="a fault of the device"):
            job.result()
        failing[0] = False
    assert job.state == "failed"
    assert base_digest(runtime) == before
    assert runtime.submit("a star", seed=1, steps=1).result().record.seed == 1


def test_a_batch_without_memory_is_made_in_halves(runtime: Runtime) -> None:
    before, failures = base_digest(runtime), list[int]()

    def allocate(_: int, rows: int) -> None:
        if rows > 4:  # two pictures, each with and without the prompt
            failures.append(rows // 2)
            torch.empty(2**60, dtype=torch.uint8)

    with before_calls(runtime, allocate):
        for expected in ([5, 3], []):  # what does not fit is not tried again
            failures.clear()
            with busy(runtime):
                jobs = [runtime.submit("a star", composition="me/ink", seed=n, steps=2) for n in range(5)]
            records = [job.result().record for job in jobs]
            assert [record.seed for record in records] == list(range(5))
            assert max(record.batch_size for record in records) == 2
            assert failures == expected
    assert base_digest(runtime) == before


def test_a_picture_that_does_not_fit_alone_says_so(runtime: Runtime) -> None:
    side = 2**24
    with pytest.raises(PictureMemoryError) as caught:
        runtime.submit("a star", steps=1, width=side, height=side).result()
    assert (caught.value.width, caught.value.height, caught.value.device) == (side, side, "cpu")
    assert runtime.submit("a star", seed=1, steps=1).result().record.seed == 1


def test_generating_and_composing_go_on_beside_jobs(runtime: Runtime) -> None:
    alone = runtime.generate("a star", composition="me/ink", seed=1, steps=3)
    jobs = [runtime.submit("a fish", composition="me/corgi", seed=n, steps=3 + n) for n in range(4)]
    runtime.compose("me/ink")
    beside = runtime.generate("a star", seed=1, steps=3)
    assert differ(beside, alone) == 0
    assert [job.result().record.steps for job in jobs] == [3, 4, 5, 6]
    assert str(runtime.composition) == "me/ink:1.0"
