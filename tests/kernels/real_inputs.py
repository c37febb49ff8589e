"""Features that a trained model makes of pictures: script-demo's tower and projector, on scenes."""

import sys
from pathlib import Path

import torch

from vllm_script.kernels import query_relevance

ROOT = Path(__file__).resolve().parents[2]


@torch.no_grad()
def real_inputs(count):
    """Yield (tokens [P, 256] float32, relevance [P]) of held-out scenes and their questions."""
    folder = str(ROOT / "benchmarks" / "demo_model")
    sys.path.insert(0, folder)
    try:
        from script_demo.answering import Answerer
        from script_demo.held_out import held_out
        from script_demo.pictures import draw
    finally:
        sys.path.remove(folder)
    answerer = Answerer(ROOT / "vllm_script" / "script_demo")
    model = answerer.model.model
    for scene, question in held_out("test", count):
        tiles = answerer.inputs(draw(scene)[0], question.text)["pixel_values"][0]
        layers = model.vision_tower(tiles, output_hidden_states=True).hidden_states
        states = layers[model.config.vision_feature_layer][:, 1:]
        tokens = model.multi_modal_projector(states).flatten(0, 1)
        words = answerer.tokenizer(question.text, return_tensors="pt").input_ids[0]
        yield tokens, query_relevance(tokens, model.get_input_embeddings()(words))
