"""The two models in transformers' classes, with one vision tower, and heads that only train."""

from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
)

from ..scenes.tiling import PATCH, PATCHES, PINPOINTS, TILE
from ..scenes.words import COLORS, NAMES
from .text import BOS_ID, EOS_ID, IMAGE_ID, PAD_ID, VOCAB_SIZE

TOWER_WIDTH, TOWER_LAYERS, TOWER_HEADS, TOWER_FFN = 192, 5, 6, 512
TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS, TEXT_FFN = 128, 3, 4, 512
LM_WIDTH, LM_LAYERS, LM_HEADS, LM_FFN = 256, 4, 4, 512
"""Heads of 64: vLLM's CPU attention takes no 48; four of them divide among two ranks."""
JOINT_WIDTH = 128
"""Width of the space in which CLIP compares patches and texts."""
FEATURE_LAYER = -2
MAX_CLIP_TEXT = 77
MAX_PROMPT = 2048
ROPE_THETA = 1e6
SPECIAL_IDS: dict[str, Any] = {
    "pad_token_id": PAD_ID,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
}


def vision_config() -> CLIPVisionConfig:
    """Return the shape of the vision tower."""
    return CLIPVisionConfig(
        hidden_size=TOWER_WIDTH,
        intermediate_size=TOWER_FFN,
        num_hidden_layers=TOWER_LAYERS,
        num_attention_heads=TOWER_HEADS,
        image_size=TILE,
        patch_size=PATCH,
        projection_dim=JOINT_WIDTH,
    )


def clip_config() -> CLIPConfig:
    """Return the shape of the CLIP model; its end of text is the tokenizer's last id."""
    text = CLIPTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_FFN,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=MAX_CLIP_TEXT,
        projection_dim=JOINT_WIDTH,
        pad_token_id=PAD_ID,
        bos_token_id=VOCAB_SIZE - 2,
        eos_token_id=VOCAB_SIZE - 1,
    )
    return CLIPConfig(
        text_config=text.to_dict(),
        vision_config=vision_config().to_dict(),
        projection_dim=JOINT_WIDTH,
    )


def llava_config() -> LlavaNextConfig:
    """Return the shape of the LLaVA-NeXT model."""
    text = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=LM_WIDTH,
        intermediate_size=LM_FFN,
        num_hidden_layers=LM_LAYERS,
        num_attention_heads=LM_HEADS,
        num_key_value_heads=LM_HEADS,
        max_position_embeddings=MAX_PROMPT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        **SPECIAL_IDS,
    )
    return LlavaNextConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=IMAGE_ID,
        image_grid_pinpoints=[list(pinpoint) for pinpoint in PINPOINTS],
        image_seq_length=PATCHES,
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **SPECIAL_IDS,
    )


class Demo(nn.Module):
    """CLIP and LLaVA around one vision tower, plus heads that are dropped at export."""

    def __init__(self, attention: str = "eager") -> None:
        """Build with random weights; `attention` is transformers' attn_implementation."""
        super().__init__()
        self.clip = CLIPModel(clip_config())
        self.llava = LlavaNextForConditionalGeneration(llava_config())
        self.clip.set_attn_implementation(attention)
        self.llava.set_attn_implementation(attention)
        self.llava.tie_weights()
        self.llava.model.vision_tower = self.tower
        self.color_head = nn.Linear(TOWER_WIDTH, len(COLORS) + 1)
        self.name_head = nn.Linear(TOWER_WIDTH, len(NAMES) + 1)
        self.side_head = nn.Linear(TOWER_WIDTH, 6)
        self.centre_head = nn.Linear(TOWER_WIDTH, 1)
        self.phrase_scale = nn.Parameter(torch.tensor(2.3))
        self.phrase_bias = nn.Parameter(torch.tensor(-5.0))

    @property
    def tower(self) -> Any:
        """The vision tower: embeddings, pre_layrnorm, encoder, post_layernorm."""
        return self.clip.vision_model

    @property
    def language(self) -> Any:
        """The Llama model without its output layer, which is the input embedding transposed."""
        return self.llava.model.language_model

    @property
    def projector(self) -> Any:
        return self.llava.model.multi_modal_projector

    @property
    def word_embeddings(self) -> Any:
        """[VOCAB_SIZE, LM_WIDTH], input and output embeddings of the language model."""
        return self.language.embed_tokens.weight
