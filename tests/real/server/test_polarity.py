"""A server whose CLIP is configured against what it measures warns; one that is right does not."""

import json
import pathlib
import shutil

import pytest

import vllm_script
from vllm_script.server.launch import VllmServer

DEMO = pathlib.Path(vllm_script.__file__).parent / "script_demo"
pytestmark = pytest.mark.slow  # two servers of its own


@pytest.mark.parametrize(("polarity", "number"), [("positive", 0), ("negative", 1)])
def test_the_log(tmp_path, polarity, number):
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    path = folder / "clip" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_polarity": polarity}))
    with VllmServer(folder, "--plugin", "script", "--enforce-eager") as server:
        log = server.log()
    assert log.count("CLIP's polarity is negative by its configuration, positive as") == number
    assert log.count("CLIP's polarity") == number
