"""Two versions of the plugin: what the report says of blocks whose times are known."""

from vllm_script.benchmarks.version_bench import OTHER, THIS, _report


def blocks(*selections):
    """Blocks whose other parts take 300 ms together."""
    return [
        {"preprocess": 40.0, "queue": 0.0, "encoder": 60.0, "selection": own, "prefill": 200.0}
        for own in selections
    ]


def test_report():
    """Selection takes 100, 25 % of the time to first token, and then 50 of 350, a seventh."""
    splits = {OTHER: blocks(100, 100, 100), THIS: blocks(49, 50, 51)}
    text = _report({"machine": "one core"}, {OTHER: "v1", THIS: "this"}, splits)
    assert "- machine: one core" in text
    assert "| v1 | 3 | 40.0 | 60.0 | 100.0 | 200.0 | 400.0 | 25.0 % |" in text
    assert "| this | 3 | 40.0 | 60.0 | 50.0 | 200.0 | 350.0 | 14.3 % |" in text
    assert "- Selection: 0.500 (0.476 to 0.525) times that of v1" in text
    assert "- Its share of the time to first token: 0.571 (" in text
    assert "- The time to first token: 0.875 (" in text
