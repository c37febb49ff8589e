"""Kimi-VL in transformers: a Kimi-K2.5, which for images has the same tower."""

import json


def kimi_k25(folder, **kwargs):
    """Transformers' Kimi-K2.5 with the weights of a Kimi-VL, read under their published names.

    Args:
        kwargs: further ones of `from_pretrained`.
    """
    from transformers import Kimi_K25Config, Kimi_K25ForConditionalGeneration

    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    own = {
        "pos_emb_height": vision.pop("init_pos_emb_height"),
        "pos_emb_width": vision.pop("init_pos_emb_width"),
        "model_type": "kimi_k25_vision",
    }
    theirs = Kimi_K25Config(
        text_config=config["text_config"],
        vision_config=vision | own,
        projection_hidden_size=vision["hidden_size"],
        image_token_id=config["media_placeholder_token_id"],
        tie_word_embeddings=False,
    )
    names = {
        "multi_modal_projector.linear_1": "mm_projector.proj.0",
        "multi_modal_projector.linear_2": "mm_projector.proj.2",
        "multi_modal_projector.pre_norm": "model.mm_projector.pre_norm",
    }
    return Kimi_K25ForConditionalGeneration.from_pretrained(
        folder, config=theirs, key_mapping=names, **kwargs
    )
