"""The API process: from a request to a prompt with fewer placeholders.

The life of a request, in the order in which vLLM calls us:

1. Over HTTP, vLLM's request class drops what it does not know, so server/script_field.py carries
   the field `script` on. Offline it stands in `mm_processor_kwargs`.
2. renderer.py, `render_messages`: the messages are still messages. queries.py notes for each image
   and video the questions that may condition it, and a `ScriptRequest` (request.py) lies beside the
   prompt.
3. renderer.py, `_process_tokens`: the server's settings with the request's overrides are put into
   the `ScriptRequest`. A wrong setting ends here, as an HTTP 400; what depends on the item, such as
   the server's bound on keep ratios, in the next two steps.
4. processor.py, `apply`: item_limit.py refuses what is too large before pruning; planner.py makes
   a plan for each item; plan.py names the item by it, so that every cache of vLLM's keeps items
   apart whose plans differ.
5. processor.py, the steps that stock `apply` calls: items that vLLM's cache lacks are preprocessed,
   one by one, from pixel_cache.py where they are known; wire.py packs each item's plan beside its
   pixels; placeholders.py shortens what the prompt has for it.
6. metrics.py counts what was pruned. The prompt goes to the engine process, where worker/ goes on.

What crosses vLLM under a name of ours, in the order in which it is packed:

where                                 type           packed by -> opened by
                                                     why it goes there
------------------------------------  -------------  -----------------------------------------------
additional_config["script"]           dict           server/flags.py or the operator -> plugin.py
                                                     options of plugins have no other place
EngineArgs.script_errors              context        server/flags.py -> plugin.py
                                                     a command line ends with one line, not a trace
model_config.vllm_script              dict           plugin.py -> `ScriptConfig.of`
                                                     processors and models see this configuration,
                                                     of which vLLM hashes only fields of its own
request._script_request               ScriptRequest  server/ask.py -> server/script_field.py
                                                     routes of ours ask what no client can
chat_template_kwargs["script"]        dict, or       server/script_field.py -> renderer.py
                                      ScriptRequest  of a request's fields it reaches the renderer
prompt["_script"]                     ScriptRequest  renderer.py -> renderer.py
                                                     texts are known before settings
mm_processor_kwargs["script"]         dict, then     the client, renderer.py -> renderer.py,
                                      ScriptRequest  processor.py; it reaches the processor
hf_processor_mm_kwargs                Carried        processor.py -> processor.py
  ["script_items"]                                   nothing of a request is kept on a processor
script_plan, script_count,            tensors        wire.py -> wire.py
  script_key, script_total                           fields beside the pixels reach the worker and,
  (and ..._video)                                    the last one, the scheduler
field_for_the_script_plugin           field type     wire.py -> wire.py
                                                     a server without us refuses what was rendered
script-terms.json in a shared folder  file           peers.py -> peers.py of another server
                                                     servers that share images need the same flags
script_dummy (and ..._video)          tensor         wire.py -> wire.py
                                                     the worker tests itself on vLLM's dummies
last 8 channels of a row              bytes          families/mrope.py -> families/mrope.py
                                                     positions are known where rows are at hand
worker methods script_*               RPC            server/ -> extension.py
                                                     the workers' figures and selections
"""
