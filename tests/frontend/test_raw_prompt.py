"""Prompts that were never messages: the question is what the template's words leave."""

import pytest

from vllm_script.frontend.raw_prompt import MARKS, Scaffolding, learn_scaffolding, raw_item_queries

VICUNA = Scaffolding("USER:", "ASSISTANT:")
MISTRAL = Scaffolding("[INST]", "[/INST]")
NONE = Scaffolding("", "")


@pytest.mark.parametrize(
    "template, expected",
    [
        ("USER: <image>\n{} ASSISTANT: {}</s>USER: {} ASSISTANT:", VICUNA),
        ("A chat. USER: <image>\n{} ASSISTANT: {}</s>USER: {} ASSISTANT:", VICUNA),
        ("[INST] <image>\n{} [/INST] {}</s>[INST] {} [/INST]", MISTRAL),
        ("<image>{}\n{}\n{}\n", NONE),
    ],
)
def test_learn_scaffolding(template, expected):
    assert learn_scaffolding(template.format(*MARKS), "<image>") == expected


@pytest.mark.parametrize(
    "text, scaffolding, queries",
    [
        ("USER: <image>\nWhat? ASSISTANT:", VICUNA, ["What?"]),
        ("Be brief. USER: <image>\nWhat? ASSISTANT:", VICUNA, ["What?"]),
        ("USER: <image><image>\nCompare. ASSISTANT:", VICUNA, ["Compare."] * 2),
        (
            "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: <image>\nWhy? ASSISTANT:",
            VICUNA,
            ["What?", "Why?"],
        ),
        ("USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Why? ASSISTANT:", VICUNA, ["What?"]),
        ("USER: <image> USER: What? ASSISTANT:", VICUNA, ["What?"]),
        ("USER: What? ASSISTANT:", VICUNA, []),
        ("<s>[INST] <image>\nWhat? [/INST]", MISTRAL, ["What?"]),
        ("<image>\nWhat?", VICUNA, ["What?"]),  # does not follow the template
        ("<image>\nWhat?", NONE, ["What?"]),
    ],
)
def test_raw_item_queries(text, scaffolding, queries):
    assert raw_item_queries(text, {"image": "<image>"}, scaffolding) == {"image": queries}
