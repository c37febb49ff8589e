"""Features that a trained model makes of pictures: script-demo's tower and projector, on scenes."""

from pathlib import Path

import torch

from vllm_script.benchmarks.scenes.answering import Answerer
from vllm_script.benchmarks.scenes.held_out import held_out
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.kernels import query_relevance
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of


@torch.no_grad()
def real_inputs(count):
    """Yield (tokens [P, 256] float32, relevance [P]) of held-out scenes and their questions."""
    answerer = Answerer(Path(repository_of(SCRIPT_DEMO)))
    model = answerer.model.model
    for scene, question in held_out("test", count):
        tiles = answerer.inputs(draw(scene)[0], question.text)["pixel_values"][0]
        layers = model.vision_tower(tiles, output_hidden_states=True).hidden_states
        states = layers[model.config.vision_feature_layer][:, 1:]
        tokens = model.multi_modal_projector(states).flatten(0, 1)
        words = answerer.tokenizer(question.text, return_tensors="pt").input_ids[0]
        yield tokens, query_relevance(tokens, model.get_input_embeddings()(words))
