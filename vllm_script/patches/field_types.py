"""`MMF_CLASS_TO_FACTORY` and `MultiModalFieldConfig`: names of field types between processes.

Why: /v1/chat/completions/render returns the fields of an item, and a server that runs without this
plugin would take those of a pruned item: it would encode the whole of it, and put the first rows
into the prompt. A type of our own is unknown there, which is an error before anything is encoded.

Upstream: nothing is known that would let a field refuse a server. The patched lines:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/v1/serial_utils.py#L48

Remove when: a rendered request can say what it needs of the server that answers it.
"""

from __future__ import annotations

import importlib
from typing import Any

from .probing import EXISTS, Probes

_SERIAL, _INPUTS = "vllm.v1.serial_utils", "vllm.multimodal.inputs"

PROBES: Probes = {
    f"{_SERIAL}:MMF_CLASS_TO_FACTORY": EXISTS,
    f"{_SERIAL}:MsgpackDecoder._decode_mm_field_elem": ("obj",),
    f"{_INPUTS}:MultiModalFieldConfig": frozenset({"field", "modality"}),
    f"{_INPUTS}:MultiModalBatchedField": frozenset({"keep_on_cpu"}),
}


def register_field(field_class: type, name: str) -> None:
    """Have this process write and read fields of a class under a name.

    Args:
        field_class: a class below vLLM's `MultiModalBatchedField`, without data of its own.
        name: what vLLM is to call it; it is in the error of a process that does not know it.
    """
    config: Any = importlib.import_module(_INPUTS).MultiModalFieldConfig

    def factory(modality: str, *, keep_on_cpu: bool = False) -> Any:
        return config(field=field_class(keep_on_cpu=keep_on_cpu), modality=modality)

    importlib.import_module(_SERIAL).MMF_CLASS_TO_FACTORY[field_class] = name
    setattr(config, name, staticmethod(factory))
