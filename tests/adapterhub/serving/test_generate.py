"""`POST /v1/generate`: what is drawn, told, refused and cancelled."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from adapterhub.runtime.composition import Composition
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.schedule import Switch
from adapterhub.runtime.start import Start
from tests.adapterhub.runtime.conftest import busy
from tests.adapterhub.serving.conftest import QUEUE, gauge, picture, wait_until

STREAM = {"Accept": "text/event-stream"}
LONG = {"prompt": "a star", "steps": 150, "width": 96, "height": 96}


def encoded(image: Image.Image, format_name: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format_name)
    return base64.b64encode(buffer.getvalue()).decode()


def draw(client: httpx2.Client, **body: Any) -> list[dict[str, Any]]:
    answer = client.post("/v1/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["pictures"]


def events(answer: httpx2.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read server-sent events, as the standard's fields stand in lines."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_a_picture_is_that_of_the_runtime_bit_for_bit(client: httpx2.Client, runtime: Runtime) -> None:
    body = {"prompt": "a star", "seed": 7, "steps": 3, "guidance_scale": 4, "scheduler": "euler"}
    (made,) = draw(client, **body, negative_prompt="blue", composition="me/ink:0.8 + me/corgi", width=48)
    expected = runtime.generate(
        "a star",
        composition="me/ink:0.8 + me/corgi",
        negative_prompt="blue",
        seed=7,
        steps=3,
        guidance_scale=4.0,
        scheduler="euler",
        width=48,
    )
    assert same(picture(made["data"]), expected.images[0])
    assert (made["seed"], made["record"]) == (7, json.loads(expected.record.to_json()))
    assert json.loads(picture(made["data"]).info["adapterhub"]) == made["record"]


def test_without_a_composition_the_base_draws_whatever_is_composed(
    client: httpx2.Client, runtime: Runtime
) -> None:
    expected = runtime.generate("a star", seed=7, steps=2).images[0]
    runtime.compose("me/ink")
    (made,) = draw(client, prompt="a star", seed=7, steps=2)
    runtime.compose(None)
    assert same(picture(made["data"]), expected)


def test_a_method_starts_masks_and_trigger_words_are_those_of_the_runtime(
    client: httpx2.Client, runtime: Runtime
) -> None:
    both = "me/ink + me/corgi"
    (made,) = draw(
        client,
        prompt="a fish",
        seed=2,
        steps=4,
        composition=both,
        method="switch",
        every=2,
        triggers="append",
    )
    switch = Switch(Composition.parse(both), every=2)
    expected = runtime.generate("a fish, inkstyle, corgistyle", composition=switch, seed=2, steps=4)
    assert same(picture(made["data"]), expected.images[0])

    ground, mask = Image.new("RGB", (64, 64), "gold"), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    start = {"image": f"data:image/png;base64,{encoded(ground)}", "mask": encoded(mask), "strength": 0.8}
    (made,) = draw(client, prompt="a fish", seed=2, steps=4, **start)
    expected = runtime.generate("a fish", start=Start(ground, 0.8, mask), seed=2, steps=4)
    assert same(picture(made["data"]), expected.images[0])


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_several_pictures_in_another_format_have_seeds_that_count_up(
    client: httpx2.Client, name: str
) -> None:
    made = draw(client, prompt="a star", seed=5, steps=1, count=2, format=name)
    assert [one["seed"] for one in made] == [5, 6]
    assert [picture(one["data"]).format for one in made] == [name.upper()] * 2


def test_events_tell_every_picture_s_steps_and_previews_and_then_the_pictures(
    client: httpx2.Client, runtime: Runtime
) -> None:
    body = {"prompt": "a star", "seed": 5, "steps": 6, "preview_every": 2, "count": 2}
    with client.stream("POST", "/v1/generate", json=body, headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = list(events(answer))
    assert [name for name, _ in told[:-1]] == ["progress"] * (len(told) - 1)
    for place in (0, 1):
        own = [data for _, data in told[:-1] if data["picture"] == place]
        dones = [data["done"] for data in own]
        assert dones == sorted(set(dones))
        assert dones[-1] == 6
        assert {data["steps"] for data in own} == {6}
        shown = [picture(data["preview"]) for data in own if "preview" in data]
        assert 1 <= len(shown) <= 2  # after steps 2 and 4, but for those that came too fast
        assert {(one.format, one.size) for one in shown} == {("JPEG", (64, 64))}
    name, data = told[-1]
    assert name == "done"
    expected = runtime.generate("a star", seed=5, steps=6, count=2)
    for one, image in zip(data["pictures"], expected.images, strict=True):
        difference = np.asarray(picture(one["data"])).astype(int) - np.asarray(image).astype(int)
        assert np.abs(difference).max() <= 1  # the two may have been made one after the other


@pytest.mark.parametrize("headers", [{}, STREAM], ids=["answer", "events"])
def test_a_client_that_goes_away_cancels_its_job(
    client: httpx2.Client, headers: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    before = gauge(client, 'adapterhub_jobs_total{outcome="cancelled"}')
    with httpx2.Client(base_url=client.base_url, timeout=60) as other:
        if headers:
            with other.stream("POST", "/v1/generate", json=LONG, headers=headers) as answer:
                next(events(answer))
        else:
            with pytest.raises(httpx2.ReadTimeout):
                other.post("/v1/generate", json=LONG, timeout=0.3)
    wait_until(client, 'adapterhub_jobs_total{outcome="cancelled"}', before + 1)
    assert gauge(client, "adapterhub_jobs_running ") == 0
    (made,) = draw(client, prompt="a star", steps=1)
    assert made["record"]["steps"] == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_queue_says_when_to_come_again_and_takes_all_or_none(
    client: httpx2.Client, runtime: Runtime
) -> None:
    before = gauge(client, 'adapterhub_jobs_total{outcome="refused"}')
    with busy(runtime):
        filling = threading.Thread(target=lambda: draw(client, prompt="a star", steps=1, count=QUEUE - 1))
        filling.start()
        wait_until(client, "adapterhub_jobs_queued ", QUEUE - 1)
        refused = client.post("/v1/generate", json={"prompt": "a star", "steps": 1, "count": 2})
        assert (refused.status_code, refused.json()["code"]) == (429, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1
        assert gauge(client, "adapterhub_jobs_queued ") == QUEUE - 1
    filling.join()
    assert gauge(client, 'adapterhub_jobs_total{outcome="refused"}') == before + 1


def test_a_deadline_that_passes_is_a_status_or_an_event(client: httpx2.Client) -> None:
    body = {"prompt": "a star", "steps": 150, "deadline_s": 0.001}
    answer = client.post("/v1/generate", json=body)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline-passed")
    with client.stream("POST", "/v1/generate", json=body, headers=STREAM) as streamed:
        assert streamed.status_code == 200
        name, data = list(events(streamed))[-1]
    assert (name, data["code"]) == ("error", "deadline-passed")


def test_a_picture_for_which_there_is_no_memory_is_507(client: httpx2.Client, runtime: Runtime) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    handle = runtime.pipeline.unet.register_forward_pre_hook(fail)
    try:
        answer = client.post("/v1/generate", json={"prompt": "a star", "steps": 1})
    finally:
        handle.remove()
    assert (answer.status_code, answer.json()["code"]) == (507, "picture-memory-full")


REFUSED = [
    ({}, 422, "prompt"),
    ({"prompt": 3}, 422, "it must be a text"),
    ({"prompt": "\ud800"}, 422, "it must be a text"),
    ({"prompt": "a" * 10_001}, 422, "10000 at most"),
    ({"stpes": 3}, 422, "Did you mean steps?"),
    ({"steps": "4"}, 422, "steps is '4', but it must be a whole number"),
    ({"steps": True}, 422, "it must be a whole number"),
    ({"steps": 0}, 422, "at least 1"),
    ({"steps": 151}, 422, "150 at most"),
    ({"count": 17}, 422, "16 at most"),
    ({"count": 0}, 422, "at least 1"),
    ({"seed": -1}, 422, "the seed"),
    ({"guidance_scale": float("nan")}, 422, "the guidance scale"),
    ({"width": 136, "height": 128}, 422, "136x128"),
    ({"width": 63}, 422, "multiples of 8"),
    ({"scheduler": "heun"}, 422, "the scheduler"),
    ({"plane": "air"}, 422, "plane"),
    ({"triggers": "maybe"}, 422, "triggers"),
    ({"format": "gif"}, 422, "png, jpeg, webp"),
    ({"composition": "me/ink:x"}, 422, "cannot read the composition"),
    ({"composition": "me/inc"}, 404, "Did you mean me/ink"),
    ({"composition": "me/ink@9"}, 404, 'no version "9"'),
    ({"prompt": "a <lora:inc:1>"}, 404, "me/ink"),
    ({"method": "magic"}, 422, "magic"),
    ({"every": 2}, 422, "goes with the method switch"),
    ({"settings": {"density": 0.5}}, 422, "settings"),
    ({"composition": "me/ink", "method": "ties", "settings": {"density": "x"}}, 422, "a number"),
    ({"composition": "me/ink", "method": "ties", "settings": {"density": 7}}, 422, "density"),
    ({"image": "!"}, 422, "in base64"),
    ({"image": base64.b64encode(b"no picture").decode()}, 422, "in base64"),
    ({"image": encoded(Image.new("RGB", (64, 64)), "GIF")}, 422, "in base64"),
    ({"image": encoded(Image.new("1", (4104, 4096)))}, 422, "16777216 pixels at most"),
    ({"strength": 0.5}, 422, "mask and strength go with one"),
    ({"deadline_s": -1}, 422, "the deadline"),
    ({"preview_every": -1}, 422, "previews"),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED)
def test_what_makes_no_sense_is_refused(
    client: httpx2.Client, body: dict[str, Any], status: int, words: str
) -> None:
    body = body if "prompt" in body or not body else {"prompt": "a star", "steps": 1, **body}
    answer = client.post(
        "/v1/generate", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, sorted(answer.json())) == (status, ["code", "message"]), answer.text
    assert words in answer.json()["message"]


def test_bodies_that_are_too_large_or_no_json_are_refused(client: httpx2.Client) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b"x" * (32 << 20) + b"x", iter([b"x" * (1 << 20)] * 33)):
        answer = client.post("/v1/generate", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")
    for content in (b"{", b"[]", b"\xff", b'{"a":' * 100_000):
        answer = client.post("/v1/generate", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "body-unreadable")
    # A browser sends this for any page, without asking first.
    answer = client.post("/v1/generate", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (400, "body-unreadable")
