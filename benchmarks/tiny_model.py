"""Write a small LLaVA checkpoint with random weights, in the folder layout of the published ones.

    python benchmarks/tiny_model.py OUT_DIR [--family llava-next|llava-1.5] [--tile 336] ...

The real configuration classes, processor and chat-template structure, so vLLM serves it like the
real model: its token counts, caches and timings mean something, its answers do not. `--tile 336
--patch 14` is the real geometry (a 672x672 picture has 2928 visual tokens); a smaller tile makes
tests fast. Weights are a function of `--seed`.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

IMAGE_TOKEN = "<image>"
CLIP_BOS, CLIP_EOS = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", IMAGE_TOKEN, CLIP_BOS, CLIP_EOS]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '' }}"
    "{% else %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# Enough running text for a byte-level BPE to find common English words.
TOKENIZER_TEXT = """What is shown in this picture? Describe the image in detail, please. How many
people are there, and what colour is the roof of the temple? Is there a tree to the left of the
building? Read the sign above the door. Where is the red car? Which animal is the largest one? What
is written on the wall? The picture shows a building with trees in front of it and a blue sky above.
USER: ASSISTANT: Answer with one word. Compare the first picture with the second one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", type=pathlib.Path)
    parser.add_argument("--family", choices=["llava-next", "llava-1.5"], default="llava-next")
    parser.add_argument("--tile", type=int, default=336, help="encoder input size in pixels")
    parser.add_argument("--patch", type=int, default=14, help="patch size in pixels")
    parser.add_argument("--vision-width", type=int, default=64)
    parser.add_argument("--vision-layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64, help="hidden size of the language model")
    parser.add_argument("--layers", type=int, default=2, help="layers of the language model")
    parser.add_argument("--context", type=int, default=8192, help="longest prompt in tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--clip", action="store_true", help="write the CLIP of the tower to OUT_DIR/clip as well"
    )
    write_checkpoint(parser.parse_args())


def write_checkpoint(args: argparse.Namespace) -> None:
    """Write config, weights (float32), tokenizer and processor files into `args.out_dir`."""
    args.out_dir.mkdir(parents=True, exist_ok=True)
    vocab_size = write_tokenizer(args.out_dir, args.context)
    write_processor(args)
    model = _random_model(args, vocab_size)
    if args.clip:
        _write_clip(args, vocab_size, model.model.vision_tower)
    config = {k: v for k, v in model.config.to_diff_dict().items() if k != "_name_or_path"}
    config["architectures"] = [type(model).__name__]
    write_json(args.out_dir / "config.json", config)
    write_json(
        args.out_dir / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
    )
    weights = {published_name(name): value for name, value in model.state_dict().items()}
    save_file(weights, args.out_dir / "model.safetensors", metadata={"format": "pt"})


def _random_model(args: argparse.Namespace, vocab_size: int) -> torch.nn.Module:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    vision = CLIPVisionConfig(
        hidden_size=args.vision_width,
        intermediate_size=2 * args.vision_width,
        num_hidden_layers=args.vision_layers + 1,  # LLaVA reads the last layer but one
        num_attention_heads=args.vision_width // 16,
        image_size=args.tile,
        patch_size=args.patch,
        projection_dim=args.vision_width,
    )
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=args.width,
        intermediate_size=2 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 32,  # vLLM on CPU needs head sizes of 32 or more
        num_key_value_heads=args.width // 32,
        max_position_embeddings=args.context,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
    )
    common = dict(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL_TOKENS.index(IMAGE_TOKEN),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(args.seed)
    if args.family == "llava-next":
        pinpoints = [[tall * args.tile, wide * args.tile] for tall, wide in GRIDS]
        model = LlavaNextForConditionalGeneration(
            LlavaNextConfig(image_grid_pinpoints=pinpoints, **common)
        )
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**common))
    for parameter in model.parameters():  # wide enough that answers depend on the picture
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    return model.float().eval()


def _write_clip(args: argparse.Namespace, vocab_size: int, tower: torch.nn.Module) -> None:
    """A CLIPModel with the same vision tower, and a text tower of 16 positions."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig

    text = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=args.vision_width,
        intermediate_size=2 * args.vision_width,
        num_hidden_layers=args.vision_layers,
        num_attention_heads=args.vision_width // 16,
        max_position_embeddings=16,
        bos_token_id=SPECIAL_TOKENS.index(CLIP_BOS),
        eos_token_id=SPECIAL_TOKENS.index(CLIP_EOS),
        pad_token_id=SPECIAL_TOKENS.index(CLIP_EOS),
    )
    config = CLIPConfig(
        text_config=text.to_dict(),
        vision_config=tower.config.to_dict(),
        projection_dim=args.vision_width,
    )
    clip = CLIPModel(config).float().eval()
    for parameter in clip.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    clip.vision_model.load_state_dict(tower.state_dict())
    clip.save_pretrained(args.out_dir / "clip")
    write_tokenizer(args.out_dir / "clip", 16, bos=CLIP_BOS, eos=CLIP_EOS)


GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]


def published_name(name: str) -> str:
    """Name of a weight in the published checkpoints, from its name in transformers 5."""
    name = name.removeprefix("model.")
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    return name


def write_tokenizer(
    out_dir: pathlib.Path, context: int, bos: str = "<s>", eos: str = "</s>"
) -> int:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TOKENIZER_TEXT], trainer)
    tokenizer.save(str(out_dir / "tokenizer.json"))
    write_json(
        out_dir / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": bos,
            "eos_token": eos,
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "model_max_length": context,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    return tokenizer.get_vocab_size()


def write_processor(args: argparse.Namespace) -> None:
    size = {"shortest_edge": args.tile}
    crop = {"height": args.tile, "width": args.tile}
    images = {
        "crop_size": crop,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": size,
    }
    processor = {
        "patch_size": args.patch,
        "vision_feature_select_strategy": "default",
        "image_token": IMAGE_TOKEN,
        "num_additional_image_tokens": 1,
    }
    if args.family == "llava-next":
        images |= {
            "image_processor_type": "LlavaNextImageProcessor",
            "do_pad": True,
            "image_grid_pinpoints": [[h * args.tile, w * args.tile] for h, w in GRIDS],
        }
        processor["processor_class"] = "LlavaNextProcessor"
    else:
        images["image_processor_type"] = "CLIPImageProcessor"
        processor["processor_class"] = "LlavaProcessor"
    images["processor_class"] = processor["processor_class"]
    write_json(args.out_dir / "preprocessor_config.json", images)
    write_json(args.out_dir / "processor_config.json", processor)


def write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
