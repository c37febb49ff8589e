"""A server whose CLIP is configured against what it measures warns of it, once."""

import json
import pathlib
import shutil

import openai
import pytest

import vllm_script
from vllm_script.server.launch import VllmServer

DEMO = pathlib.Path(vllm_script.__file__).parent / "script_demo"
pytestmark = pytest.mark.slow  # two servers of its own


@pytest.mark.parametrize(("polarity", "number"), [("positive", 0), ("negative", 1)])
def test_the_log(tmp_path, picture, polarity, number):
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    path = folder / "clip" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_polarity": polarity}))
    with VllmServer(folder, "--plugin", "script", "--enforce-eager") as server:
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=1)
        for seed in range(2):  # on CPUs it is measured with the first picture
            content = [picture(112, 112, seed), {"type": "text", "text": "What is shown?"}]
            client.chat.completions.create(
                model=str(folder), messages=[{"role": "user", "content": content}], max_tokens=1
            )
        log = server.log()
    assert log.count("CLIP's polarity is negative by its configuration, positive as") == number
    assert log.count("CLIP's polarity") == number
