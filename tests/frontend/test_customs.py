"""The table of what crosses vLLM under names of ours has every name."""

import re
from pathlib import Path

from vllm_script import frontend, server, wire
from vllm_script.extension import ScriptWorker
from vllm_script.frontend import peers
from vllm_script.frontend.items import CARRIED_KEY
from vllm_script.frontend.renderer import NOTE_KEY
from vllm_script.frontend.request import REQUEST_KEY
from vllm_script.positions import NUM_CHANNELS
from vllm_script.server.script_field import ATTACHED


def test_every_name_is_in_the_table():
    quoted = (REQUEST_KEY, CARRIED_KEY, NOTE_KEY)
    names = [f'["{key}"]' for key in quoted] + [*wire.FIELDS, wire.DUMMY, ATTACHED]
    names += [wire.PRUNING_FIELD, peers.FILE]
    names += ['additional_config["script"]', "EngineArgs.script_errors", "model_config.vllm_script"]
    names += [f"last {NUM_CHANNELS} channels"]
    assert [name for name in names if name not in frontend.__doc__] == []


def test_the_server_calls_methods_that_workers_have():
    sources = [path.read_text() for path in Path(server.__file__).parent.glob("*.py")]
    call = re.compile(r'collective_rpc"?[(,] ?"(\w+)"')
    called = {name for text in sources for name in call.findall(text)}
    assert called == {name for name in vars(ScriptWorker) if name.startswith("script_")}
