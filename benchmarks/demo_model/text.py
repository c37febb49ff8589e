"""The tokenizer, trained on what the generator can say, and the prompts of the model."""

from collections.abc import Iterator

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ..scenes.questions import questions_of
from ..scenes.scene import Scene, Thing, scene_of
from ..scenes.splits import seed_of
from ..scenes.words import (
    COLORS,
    COUNTS,
    EMPTY,
    HORIZONTAL,
    IMAGE,
    MARK,
    NAMES,
    VERTICAL,
    with_article,
)

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
CLIP_BOS, CLIP_EOS = "<|startoftext|>", "<|endoftext|>"
"""Added last: CLIP's end must be the largest id, and must not be 2 (transformers pools by it)."""
PAD_ID, BOS_ID, EOS_ID, IMAGE_ID = 0, 1, 2, 3
VOCAB_SIZE = 512
CORPUS_SCENES = 3000
EVERYDAY_WORDS = (
    "a picture of this image shows and or not with which what where who when how many much does do "
    "did please tell me describe look at something you I it they we have has was were colour "
    "number "
    "above below next between near big small large above under behind one two three four five six "
    "hello thanks can could would should there here that these those from about into more than"
)
"""Not asked by the generator; keeps other people's questions short in tokens."""
OPENING = "USER: "
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ASSISTANT: ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}{{ '<image>\\n' }}{% endif %}{% endfor %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}"
    "{% elif message['role'] == 'system' %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
"""Takes OpenAI content lists and plain strings. No BOS: all roads to a prompt give the same ids."""


def train_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer in which every word of the scenes is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - 2,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    spare = VOCAB_SIZE - 2 - tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<unused{index}>" for index in range(spare)])
    tokenizer.add_special_tokens([CLIP_BOS, CLIP_EOS])
    for word in (*COLORS, *NAMES, *HORIZONTAL, *VERTICAL, *COUNTS, MARK, EMPTY):
        word_id(tokenizer, word)
    return tokenizer


def for_clip(tokenizer: Tokenizer) -> Tokenizer:
    """Return a copy that puts CLIP's begin and end around a text."""
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    bos, eos = tokenizer.token_to_id(CLIP_BOS), tokenizer.token_to_id(CLIP_EOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLIP_BOS} $A {CLIP_EOS}", special_tokens=[(CLIP_BOS, bos), (CLIP_EOS, eos)]
    )
    return tokenizer


def word_id(tokenizer: Tokenizer, word: str) -> int:
    """Return the id of a word in the middle of a sentence.

    Raises:
        ValueError: the tokenizer splits it.
    """
    ids = tokenizer.encode(" " + word).ids
    if len(ids) != 1:
        raise ValueError(f"{word!r} must be one token, got {len(ids)}; VOCAB_SIZE is {VOCAB_SIZE}")
    return ids[0]


def turn_ids(
    tokenizer: Tokenizer, question: str, answer: str, is_first: bool
) -> tuple[list[int], list[int]]:
    """Return the ids of a question up to its answer, and the answer's ids with the end.

    A first question follows the picture, another one the end of the answer before it.
    """
    opening = "\n" if is_first else OPENING
    asked = tokenizer.encode(f"{opening}{question} ASSISTANT:").ids
    return asked, [*tokenizer.encode(" " + answer).ids, EOS_ID]


def phrase_of(thing: Thing) -> str:
    """Name a thing by its colour and kind: "a red circle", "a blue digit 4"."""
    kind = f"digit {thing.name}" if thing.is_digit else thing.name
    return with_article(f"{thing.color} {kind}")


def caption_of(things: list[Thing]) -> str:
    """Say what a tile shows."""
    return ", ".join(phrase_of(thing) for thing in things) or "nothing but background"


def phrases_of(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield short texts about a scene with the things they fit, besides its questions."""
    for index in rng.permutation(len(scene.things)):
        thing = scene.things[index]
        same_color = tuple(i for i, t in enumerate(scene.things) if t.color == thing.color)
        same_name = tuple(i for i, t in enumerate(scene.things) if t.name == thing.name)
        kind = f"digit {thing.name}" if thing.is_digit else thing.name
        yield from (
            (phrase_of(thing), tuple(i for i in same_color if i in same_name)),
            (f"{thing.color} {MARK}" if rng.random() < 0.5 else thing.color, same_color),
            (f"the {kind}", same_name),
        )


def _corpus() -> Iterator[str]:
    for index in range(CORPUS_SCENES):
        scene = scene_of(seed_of("train", index))
        for question in questions_of(scene):
            yield f"{OPENING}\n{question.text} ASSISTANT: {question.answer}"
        yield caption_of(list(scene.things))
        yield f"nothing but {EMPTY}"
    yield EVERYDAY_WORDS
