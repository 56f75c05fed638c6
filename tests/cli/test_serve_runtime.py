"""`serve runtime` as a process: it says where it is, and stops in order."""

import os
import re
import signal
import subprocess
import sys

import httpx2
import pytest

from adapterhub_cli.main import main

Capture = pytest.CaptureFixture[str]


def test_a_stop_tells_those_who_wait_and_ends_well() -> None:
    environment = os.environ | {"ADAPTERHUB_SECRET": "opensesame"}
    command = [sys.executable, "-m", "adapterhub_cli", "serve", "runtime", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            found = re.fullmatch(r"mini is served at (\S+); stop it .*\n", process.stderr.readline())
            assert found is not None
            with httpx2.Client(base_url=found[1], timeout=60) as client:
                assert client.get("/v1/adapters").status_code == 401
                headers = {"Authorization": "Bearer opensesame", "Accept": "text/event-stream"}
                body = {"prompt": "a star", "steps": 150, "width": 96, "height": 96}
                with client.stream("POST", "/v1/generate", json=body, headers=headers) as answer:
                    lines = answer.iter_lines()
                    assert next(lines) == "event: progress"
                    process.send_signal(signal.SIGTERM)
                    rest = [line for line in lines if line]
            assert rest[-2] == "event: error"
            assert '"code": "job-cancelled"' in rest[-1]
            assert (process.wait(60), process.stderr.read()) == (0, "stopped\n")
        finally:
            process.kill()


def test_nobody_else_is_served_without_a_secret(capsys: Capture) -> None:
    assert main(["serve", "runtime", "--host", "0.0.0.0"]) == 1  # noqa: S104 - it is refused
    assert "a secret is needed" in capsys.readouterr().err


def test_without_the_extra_the_install_command_is_named() -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None; from adapterhub_cli.main import main; "
        "sys.exit(main(['serve', 'runtime']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert 'pip install "adapterhub[server]"' in done.stderr
