"""Checkpoints in Mistral's own format, whose prompts its tokenizer lays out as token ids."""

import base64
import io
import json

FAMILIES = {"pixtral"}


def architecture(folder):
    """Name of vLLM's model of a checkpoint, in transformers' format or in Mistral's own."""
    if (folder / "params.json").exists():
        return "PixtralForConditionalGeneration"
    return json.loads((folder / "config.json").read_text())["architectures"][0]


def data_url(image):
    """An image, without loss, as a client sends it."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def token_ids(tokenizer, *turns):
    """A prompt of users' turns and the answers between them: lists of texts and images."""
    messages = []
    for index, parts in enumerate(turns):
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": data_url(part)}}
            for part in parts
        ]
        messages.append({"role": "assistant" if index % 2 else "user", "content": content})
    return tokenizer.apply_chat_template(messages)
