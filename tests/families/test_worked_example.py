"""The family that families/README.md adds is one: it counts tokens as stock vLLM does, and fits."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY

from vllm_script import families
from vllm_script.patches import overrides
from vllm_script.patches.probing import misfits

SIZES = [(84, 84), (28, 28), (100, 30), (30, 100), (400, 90), (127, 128), (251, 333), (640, 480)]


@pytest.fixture
def bee(monkeypatch):
    """The module that the page shows, among those of the package."""
    page = (Path(families.__file__).parent / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    module = ModuleType(f"{families.__name__}.bee")
    module.__package__ = families.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, module.__name__, "exec"), module.__dict__)
    return module


def test_the_family_that_the_page_adds(bee, checkpoint, tmp_path):
    folder = tmp_path / "bee"
    shutil.copytree(checkpoint("llava-onevision"), folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"architectures": ["BeeForConditionalGeneration"]}
    path.write_text(json.dumps(config))
    model_config = EngineArgs(str(folder)).create_model_config()
    info = MULTIMODAL_REGISTRY.create_processor(model_config).info
    pruned = bee.ScriptBeeForConditionalGeneration
    for width, height in SIZES:
        layout = pruned.family.image_layout(info, height, width, {})
        stock = info.get_num_image_tokens(image_width=width, image_height=height)
        assert layout.num_placeholders == stock
    assert not misfits(overrides.of_family(pruned))
