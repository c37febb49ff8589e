"""A server child never outlives its `with` block."""

import os

import pytest

from vllm_script.server.launch import VllmServer

pytestmark = pytest.mark.real


def test_a_server_that_fails_shows_its_log(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"exited with status [1-9](.|\n)*end of its log:\n.*\n"),
        VllmServer(tmp_path / "no-such-model"),
    ):
        pass


def test_an_interrupt_while_it_starts_stops_it(checkpoint):
    def interrupt(seconds):
        if seconds > 3:
            raise KeyboardInterrupt

    server = VllmServer(checkpoint("llava-next"), progress=interrupt)
    with pytest.raises(KeyboardInterrupt), server:
        pass
    with pytest.raises(ProcessLookupError):
        os.killpg(server._process.pid, 0)
    assert not server.log_path.exists()
