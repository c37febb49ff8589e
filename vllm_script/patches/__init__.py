"""Every place of vLLM that this plugin changes, one module each.

A patch is a module here that knows how to get into one place of vLLM. What happens there is not its
business: that is a function which the rest of the plugin hands over. Its docstring says why the
patch exists, what vLLM offers or discusses instead (Upstream), and when to remove it; its `PROBES`
name what must be there for it to work.

| module | place of vLLM | process | so that |
|---|---|---|---|
| engine_args | `EngineArgs`: flags, model configuration | all | settings reach every process |
| chat_params | `build_chat_params` of three request classes | API | `script` reaches the renderer |
| anthropic_messages | `AnthropicMessagesRequest` | API | `script` reaches the chat request |
| renderer_registry | `RENDERER_REGISTRY.renderers` | API | questions are noted per image |
| app | `init_entrypoints_middleware` | API | /metrics and explain exist |
| chat_handler | `OpenAIServingChat` (called, not changed) | API | our routes render chats |
| config_handlers | `MODELS_CONFIG_MAP` | API | a pruned model is configured as the stock one |
| field_types | `MMF_CLASS_TO_FACTORY` | API, engine | servers without us refuse our fields |
| encoder_cache | `GPUModelRunner.reset_encoder_cache` | worker | the model forgets images too |
| nixl_handshake | `compute_nixl_compatibility_hash` | worker | prefill and decode prune alike |
| position_channels | `MultiModalConfig`, runners' positions | worker | kept rows keep positions |

`engine_args` acts in every process of everybody who has the plugin installed. All others act after
somebody has asked for pruning.

Beside the patches: `wrapping` replaces a function, `probing` looks whether a name of vLLM is what
we expect, `overrides` lists what our subclasses override and call of vLLM, and `supported` says
whether this vLLM is one that the plugin knows.
"""
