"""Phrases that say how to answer."""

import pytest

from vllm_script.frontend.phrases import ANSWER_PHRASES, AnswerPhrases

OURS = AnswerPhrases(ANSWER_PHRASES)


@pytest.mark.parametrize(
    "text, left",
    [
        ("What is it?", "What is it?"),
        ("What is it?\nAnswer the question using a single word or phrase.", "What is it?"),
        ("What is it?\nANSWER the question  using\na single word or phrase", "What is it?"),
        (
            "Which?\nA. a cat\nB. a dog\nAnswer with the option\u2019s letter from the given "
            "choices directly.",
            "Which?\nA. a cat\nB. a dog",
        ),
        ("Is there a dog? Please answer yes or no.", "Is there a dog?"),
        ("Answer briefly: what is it?", "what is it?"),
        ("Answer with one word.", ""),
        ("Be brief. Think step by step.", ""),
        ("Please answer briefly.", ""),
        ("What is it? Please explain your reasoning.", "What is it?"),
        ("Name it, and explain your answer.", "Name it,"),
        ("What is it? (Answer yes or no)", "What is it?"),
        ("**Answer briefly.** What is it?", "What is it?"),
        ("What is it? Answer in one word please", "What is it?"),
        ("What is it? Answer in one word\u3002", "What is it?"),
        ("  \n", ""),
        # Words of a question that a phrase has too.
        ("Explain your answer sheet.", "Explain your answer sheet."),
        ("Would they answer yes or no?", "Would they answer yes or no?"),
        ("Did they answer brieflyish?", "Did they answer brieflyish?"),
        ("Who answers with one wordless gesture?", "Who answers with one wordless gesture?"),
    ],
)
def test_what_is_left(text, left):
    assert OURS.taken_out_of(text) == left


def test_the_longest_phrase_is_taken_out():
    phrases = AnswerPhrases(["Be brief", "Be brief and kind"])
    assert phrases.taken_out_of("What is it? Be brief and kind!") == "What is it?"


def test_phrases_may_be_sentences():
    assert AnswerPhrases(["Be kind."]).taken_out_of("Be kind. What is it?") == "What is it?"


def test_phrases_are_no_patterns():
    assert AnswerPhrases(["a.b (c)"]).taken_out_of("axb (c) a.b (c)") == "axb (c)"


@pytest.mark.parametrize("phrases", [[], [" "]])
def test_no_phrases(phrases):
    assert AnswerPhrases(phrases).taken_out_of(" Be brief. ") == "Be brief."
