"""A server child never outlives its `with` block."""

import os

import pytest

from vllm_script.server.launch import VllmServer, _shown


def test_the_first_error_is_shown_too():
    lines = [f"INFO {n}" for n in range(50)]
    assert _shown("\n".join(lines)).splitlines() == ["the end of its log:", *lines[-30:]]
    log = ["INFO", "ERROR cause", "ERROR trace", *lines, "ERROR Engine core initialization failed"]
    shown = _shown("\n".join(log)).splitlines()
    assert shown[:3] == ["its first error:", "ERROR cause", "ERROR trace"]
    assert shown[-30:] == log[-30:] and "the end of its log:" in shown
    assert len(set(shown[1:])) == len(shown[1:])  # no line twice


@pytest.mark.real
def test_a_server_that_fails_shows_its_log(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"exited with status [1-9](.|\n)*end of its log:\n.*\n"),
        VllmServer(tmp_path / "no-such-model"),
    ):
        pass


@pytest.mark.real
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
