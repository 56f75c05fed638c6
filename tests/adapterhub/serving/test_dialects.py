"""OpenAI's own client, and what clients of the web UI send."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from adapterhub.errors import SettingError
from adapterhub.runtime.engine import Runtime
from adapterhub.runtime.schedulers import SCHEDULERS
from adapterhub.serving.samplers import scheduler_of
from tests.adapterhub.runtime.conftest import busy
from tests.adapterhub.serving.conftest import QUEUE, picture, wait_until

SMALL = {"steps": 2, "width": 64, "height": 64}


def same(data: str | None, image: Image.Image) -> bool:
    return np.array_equal(np.asarray(picture(data or "")), np.asarray(image))


@pytest.fixture(scope="module")
def theirs(client: httpx2.Client) -> Iterator[openai.OpenAI]:
    url = str(client.base_url).rstrip("/")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none is needed", max_retries=0) as theirs:
        yield theirs


def test_openai_s_client_draws_what_the_runtime_draws(theirs: openai.OpenAI, runtime: Runtime) -> None:
    drawn = theirs.images.generate(
        model="me/ink:0.8",
        prompt="a star",
        size="64x64",
        response_format="b64_json",
        quality="hd",
        style="vivid",
        user="somebody",
        extra_body={"seed": 3, "steps": 2},
    )
    expected = runtime.generate("a star", composition="me/ink:0.8", seed=3, steps=2)
    assert drawn.size == "64x64"
    assert same((drawn.data or [])[0].b64_json, expected.images[0])

    several = theirs.images.generate(
        prompt="a star", n=3, output_format="webp", extra_body={"steps": 1}, size="auto"
    )
    assert [picture(one.b64_json or "").format for one in several.data or []] == ["WEBP"] * 3


@pytest.mark.parametrize("model", ["", "mini"])
def test_the_base_s_name_and_no_name_are_the_base(
    theirs: openai.OpenAI, runtime: Runtime, model: str
) -> None:
    drawn = theirs.images.generate(model=model, prompt="a star", extra_body={"seed": 3, "steps": 2})
    assert same((drawn.data or [])[0].b64_json, runtime.generate("a star", seed=3, steps=2).images[0])


def test_openai_s_client_lists_the_base_and_the_adapters(theirs: openai.OpenAI) -> None:
    assert [model.id for model in theirs.models.list()] == ["mini", "me/corgi", "me/ink"]


@pytest.mark.parametrize(
    ("given", "kind", "code", "param"),
    [
        ({"model": "me/inc"}, openai.NotFoundError, "adapter-not-found", None),
        ({"model": "dall e"}, openai.BadRequestError, "composition-invalid", None),
        ({"size": "1024x1024"}, openai.BadRequestError, "setting-invalid", "size"),
        ({"size": "big"}, openai.BadRequestError, "setting-invalid", "size"),
        ({"n": 99}, openai.BadRequestError, "setting-invalid", "n"),
        ({"response_format": "url"}, openai.BadRequestError, "setting-invalid", "response_format"),
        ({"stream": True}, openai.BadRequestError, "setting-invalid", "stream"),
        ({"extra_body": {"sed": 3}}, openai.BadRequestError, "fields-unknown", None),
    ],
)
def test_openai_s_client_understands_what_is_refused(
    theirs: openai.OpenAI,
    given: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str | None,
) -> None:
    with pytest.raises(kind) as caught:
        theirs.images.generate(prompt="a star", **given)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"


def test_openai_s_client_comes_again_when_the_queue_was_full(
    theirs: openai.OpenAI, client: httpx2.Client, runtime: Runtime
) -> None:
    with busy(runtime):
        body = {"prompt": "a star", "steps": 1, "count": QUEUE}
        filling = threading.Thread(target=lambda: client.post("/v1/generate", json=body))
        filling.start()
        wait_until(client, "adapterhub_jobs_queued ", QUEUE)
        with pytest.raises(openai.RateLimitError) as caught:
            theirs.images.generate(prompt="a star", extra_body={"steps": 1})
        assert caught.value.type == "rate_limit_error"
        patient = theirs.with_options(max_retries=2)
        results: list[openai.types.ImagesResponse] = []
        waiting = threading.Thread(
            target=lambda: results.append(patient.images.generate(prompt="a star", extra_body={"steps": 1}))
        )
        waiting.start()
    for thread in (filling, waiting):
        thread.join()
    assert len(results[0].data or []) == 1


def test_the_web_ui_s_clients_draw_what_the_runtime_draws(client: httpx2.Client, runtime: Runtime) -> None:
    body = {
        "prompt": "a star <lora:ink:0.8>",
        "negative_prompt": "",
        "seed": 3,
        "cfg_scale": 5,
        "sampler_name": "Euler a",
        "scheduler": "automatic",
        "enable_hr": False,
        "styles": [],
        "alwayson_scripts": {},
        "override_settings": {"CLIP_stop_at_last_layers": 2},
        **SMALL,
    }
    answer = client.post("/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    expected = runtime.generate(
        "a star ", composition="me/ink:0.8", seed=3, steps=2, scheduler="euler_ancestral"
    )
    (data,) = told["images"]
    assert same(data, expected.images[0])
    assert told["parameters"] == body
    info = json.loads(told["info"])
    assert (info["seed"], info["all_seeds"], info["sampler_name"]) == (3, [3], "Euler a")
    assert info["infotexts"] == [picture(data).info["parameters"]]


def test_batches_of_the_web_ui_have_seeds_of_their_own(client: httpx2.Client) -> None:
    body = {"prompt": "a star", "batch_size": 2, "n_iter": 2, **SMALL}
    one, other = (json.loads(client.post("/sdapi/v1/txt2img", json=body).json()["info"]) for _ in range(2))
    first = one["seed"]
    assert one["all_seeds"] == [first, first + 1, first + 2, first + 3]
    assert other["seed"] != first  # left out, it is -1: any


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"enable_hr": True}, 422, "enable_hr"),
        ({"tiling": True}, 422, "tiling"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{}]}}}, 422, "ControlNet"),
        ({"sampler_name": "Heun"}, 422, "Euler a"),
        ({"scheduler": "Exponential"}, 422, "Karras"),
        ({"prompt": "a <lora:nobody:1>"}, 404, "nobody"),
        ({"batch_size": 4, "n_iter": 5}, 422, "16 at most"),
        ({"steps": 1000}, 422, "150 at most"),
    ],
)
def test_what_the_web_ui_has_and_we_have_not_is_refused(
    client: httpx2.Client, given: dict[str, Any], status: int, words: str
) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a star", **SMALL, **given})
    assert answer.status_code == status
    assert words in answer.json()["detail"]


def test_samplers_mean_our_schedulers() -> None:
    assert scheduler_of(None) is None
    assert scheduler_of("DPM++ 2M") == "dpmpp_2m"
    assert scheduler_of("dpm++ 2m karras") == "dpmpp_2m_karras"
    assert scheduler_of("DPM++ 2M", "automatic") == "dpmpp_2m_karras"
    assert scheduler_of("DPM++ 2M", "Uniform") == "dpmpp_2m"
    assert [scheduler_of(name) for name in SCHEDULERS] == list(SCHEDULERS)
    with pytest.raises(SettingError, match="Karras"):
        scheduler_of("LCM", "karras")


def test_progress_and_interrupt_are_of_one_user_s_pictures(client: httpx2.Client) -> None:
    artist, other = ((name, "any") for name in ("artist", "other"))
    assert client.get("/sdapi/v1/progress", auth=artist).json()["state"]["job_count"] == 0
    answers: list[httpx2.Response] = []
    body = {"prompt": "a star", **SMALL, "steps": 150}
    drawing = threading.Thread(
        target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=body, auth=artist))
    )
    drawing.start()
    wait_until(client, "adapterhub_jobs_running ", 1)
    told = client.get("/sdapi/v1/progress", auth=artist).json()
    assert (told["state"]["job_count"], told["state"]["sampling_steps"]) == (1, 150)
    assert 0 <= told["progress"] < 1
    client.post("/sdapi/v1/interrupt", auth=other)
    assert client.get("/sdapi/v1/progress", auth=other).json()["state"]["job_count"] == 0
    client.post("/sdapi/v1/interrupt", auth=artist)
    drawing.join()
    assert (answers[0].status_code, answers[0].json()["code"]) == (503, "job-cancelled")


def test_what_the_web_ui_s_clients_ask_at_their_start_is_answered(client: httpx2.Client) -> None:
    (model,) = client.get("/sdapi/v1/sd-models").json()
    assert model["model_name"] == "mini"
    assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == model["title"]
    assert [one["name"] for one in client.get("/sdapi/v1/loras").json()] == ["me/corgi", "me/ink"]
    assert "Euler a" in [one["name"] for one in client.get("/sdapi/v1/samplers").json()]
    assert client.get("/sdapi/v1/scripts").json() == {"txt2img": [], "img2img": []}
    for path in ("upscalers", "sd-vae", "prompt-styles"):
        assert client.get(f"/sdapi/v1/{path}").json() == []
    taken = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": model["title"], "x": 1})
    assert (taken.status_code, taken.json()) == (200, None)
    refused = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "dreamshaper"})
    assert refused.status_code == 422
