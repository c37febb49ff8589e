"""The table of what crosses vLLM under names of ours has every name."""

from vllm_script import frontend, wire
from vllm_script.extension import ScriptWorker
from vllm_script.frontend.items import CARRIED_KEY
from vllm_script.frontend.renderer import NOTE_KEY
from vllm_script.frontend.request import REQUEST_KEY
from vllm_script.positions import NUM_CHANNELS
from vllm_script.server.script_field import ATTACHED
from vllm_script.worker.model import CLIP_PREFIX


def test_every_name_is_in_the_table():
    quoted = (REQUEST_KEY, CARRIED_KEY, NOTE_KEY)
    names = [f'["{key}"]' for key in quoted] + [wire.PLAN, wire.COUNT, wire.KEY, ATTACHED]
    names += [f"last {NUM_CHANNELS} channels", f"{CLIP_PREFIX}*"]
    assert [name for name in names if name not in frontend.__doc__] == []
    methods = [name for name in vars(ScriptWorker) if not name.startswith("_")]
    assert all(name.startswith("script_") for name in methods)
