import pytest

from vllm_script.patches.probing import EXISTS, members, misfit, misfits, require, unsupported

HERE = "vllm.renderers.hf:HfRenderer"


@pytest.mark.parametrize(
    "path, expected",
    [
        (f"{HERE}.render_messages", ("messages", "params")),
        (f"{HERE}.render_messages", frozenset({"params"})),
        (f"{HERE}.render_messages", EXISTS),
        ("vllm.engine.arg_utils:EngineArgs.from_cli_args", ("args",)),  # a class method
        ("vllm.engine.arg_utils:EngineArgs.add_cli_args", ("parser",)),  # a static one
        ("vllm.engine.arg_utils:EngineArgs.additional_config", EXISTS),  # a field with a factory
        ("vllm.renderers.params:ChatParams", frozenset({"chat_template_kwargs"})),  # a class
        ("vllm.renderers.registry:RENDERER_REGISTRY.renderers", EXISTS),  # of an instance
    ],
)
def test_a_probe_that_holds(path, expected):
    assert misfit(path, expected) is None


@pytest.mark.parametrize(
    "path, expected, problem",
    [
        (f"{HERE}.render", EXISTS, "has no attribute 'render'"),
        ("vllm.renderers.gone:HfRenderer", EXISTS, "No module named 'vllm.renderers.gone'"),
        (f"{HERE}.render_messages", ("x",), "takes (messages, params), not (x)"),
        (f"{HERE}.render_messages", ("params", "messages"), "takes (messages, params), not"),
        (f"{HERE}.render_messages", frozenset({"x"}), "takes (messages, params), not (x)"),
        ("tests_broken_module:x", EXISTS, "no driver"),
        ("vllm.renderers.registry:RENDERER_REGISTRY.renderers", ("x",), "is not a callable object"),
    ],
)
def test_a_probe_that_does_not_hold(path, expected, problem, tmp_path, monkeypatch):
    (tmp_path / "tests_broken_module.py").write_text("raise OSError('no driver\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    found = misfit(path, expected)
    assert problem in found and found.startswith(path) and "\n" not in found
    assert misfits({f"{HERE}.clear_mm_cache": (), path: expected}) == [found]
    with pytest.raises(RuntimeError) as error:
        require({path: expected})
    assert str(error.value) == unsupported(found)


def test_members():
    assert members("a:B", {"c": EXISTS}) == {"a:B.c": EXISTS}
    assert members("a", {"c": ("d",)}) == {"a:c": ("d",)}
