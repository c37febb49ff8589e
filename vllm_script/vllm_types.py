"""What the plugin reads of vLLM's objects, as protocols: vLLM itself is not type-checked here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from typing import Any, Protocol


class EngineArgs(Protocol):
    """What the operator gave: `vllm.engine.arg_utils.EngineArgs`."""

    model: str
    served_model_name: str | list[str] | None
    additional_config: Any
    hf_overrides: Any
    worker_extension_cls: str
    logprobs_mode: str
    speculative_config: Any
    spec_method: str | None
    spec_model: str | None
    spec_tokens: int | None
    enable_tower_connector_lora: bool
    mm_encoder_only: bool
    mm_encoder_tp_mode: str
    compilation_config: Any
    ec_transfer_config: Any
    kv_transfer_config: Any
    kv_offloading_size: float | None
    kv_offloading_backend: str
    mm_encoder_attn_dtype: str | None
    mm_encoder_fp8_scale_path: str | None
    ec_manager_config: Any
    video_pruning_rate: float | None


class ModelConfig(Protocol):
    """The model's configuration: `vllm.config.ModelConfig`."""

    model: str
    hf_config: Any
    hf_overrides: Any
    max_logprobs: int
    vllm_script: dict[str, Any]
    """The settings, which plugin.py puts there where somebody asks for pruning."""


class ProcessingInfo(Protocol):
    """What vLLM knows of a model's inputs: `vllm.multimodal.processing.BaseProcessingInfo`."""

    ctx: Any
    allowed_mm_limits: Mapping[str, int]

    def get_max_image_tokens(self) -> int: ...

    def get_num_frames_with_most_features(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> int: ...

    def get_hf_config(self) -> Any: ...

    def get_hf_processor(self, **kwargs: object) -> Any: ...

    def get_tokenizer(self) -> Any: ...

    def parse_mm_data(self, mm_data: Mapping[str, Any], *, validate: bool = True) -> Any: ...


class Items(Protocol):
    """A request's items of one modality: `vllm.multimodal.parse.ModalityDataItems`."""

    modality: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __getitem__(self, index: int) -> Any: ...

    def get(self, index: int) -> Any:
        """Return the item; None of one that came as its uuid alone."""


class PlaceholderRange(Protocol):
    """Where an item stands in a prompt: `vllm.multimodal.inputs.PlaceholderRange`."""

    offset: int
    length: int

    def get_num_embeds(self) -> int: ...


class EngineClient(Protocol):
    """The API process's end of the engine: `vllm.engine.protocol.EngineClient`."""

    model_config: ModelConfig
    engine_core: Any
    """What speaks to the data-parallel engines: vLLM's `AsyncMPClient`."""

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **options: Any
    ) -> AsyncIterator[Any]: ...

    def collective_rpc(self, method: str, *, args: Sequence[Any] = ()) -> Awaitable[list[Any]]:
        """Call a method of every worker and return the list of their answers."""


class ChatHandler(Protocol):
    """What answers chat completions: vLLM's `OpenAIServingChat`."""

    engine_client: EngineClient
    models: Any
    request_logger: Any

    async def render_chat_request(self, request: Any) -> Any: ...


class AppState(Protocol):
    """State of vLLM's FastAPI application, complete once it serves."""

    engine_client: EngineClient
    openai_serving_chat: ChatHandler
