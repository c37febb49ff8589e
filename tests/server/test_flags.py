"""The flags in vLLM's own parser, up to the engine's configuration."""

import pytest
import torch
from vllm.config import KVTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.cli.serve import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vllm_script import plugin
from vllm_script.config import SETTINGS, ScriptConfig
from vllm_script.plugin import ENCODER_CACHE_MANAGER
from vllm_script.pruning import PruningParams
from vllm_script.server.flags import PLUGIN_MEANING
from vllm_script.setting import Choice, Lines, Number, Switch, settings_of


@pytest.fixture(scope="module")
def parser(checkpoint):
    plugin.register()
    plugin.register()  # a second call changes nothing, and adds no flag twice
    parser = FlexibleArgumentParser(prog="vllm")
    serve = make_arg_parser(parser.add_subparsers().add_parser("serve"))
    serve.set_defaults(model=str(checkpoint("llava-next")))
    return parser


def script_settings(parser, *flags):
    """additional_config["script"] of the engine that these flags ask for, None if they do not."""
    args = parser.parse_args(["serve", *flags])
    return AsyncEngineArgs.from_cli_args(args).additional_config.get("script")


@pytest.mark.parametrize(
    "flags, expected",
    [
        ([], None),
        (["--plugin", "script"], {}),
        (["--plugin", "script", "--keep-ratio", "0.11"], {"keep_ratio": 0.11}),
        (["--keep_ratio=0.25"], {"keep_ratio": 0.25}),
        (
            ["--min-keep-ratio", "0.05", "--max-keep-ratio", "0.5"],
            {"min_keep_ratio": 0.05, "max_keep_ratio": 0.5},
        ),
        (["--script-clip-model", "some/clip"], {"clip_model": "some/clip"}),
        (["--visual-token-budget", "64"], {"visual_token_budget": 64}),
        (["--script-cache-gb", "0"], {"cache_gb": 0}),
        (["--script-kernels", "torch"], {"kernels": "torch"}),
        (["--script-explain"], {"explain": True}),
        (["--script-shadow", "0.01"], {"shadow": 0.01}),
        (
            ["--script-mode", "gsp", "--script-relevance", "none"],
            {"mode": "gsp", "relevance": "none"},
        ),
        (
            ["--additional-config", '{"script": {"keep_ratio": 0.5, "tau": 0.2}, "other": 1}'],
            {"keep_ratio": 0.5, "tau": 0.2},
        ),
        (
            [
                *("--additional-config", '{"script": {"keep_ratio": 0.5, "tau": 0.2}}'),
                *("--visual-token-budget", "64"),
            ],
            {"visual_token_budget": 64, "tau": 0.2},
        ),
    ],
)
def test_flags_fold_into_additional_config(parser, flags, expected):
    assert script_settings(parser, *flags) == expected


def test_yaml(parser, checkpoint, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"model: {checkpoint('llava-next')}\nplugin: script\nkeep-ratio: 0.25\n")
    assert script_settings(parser, "--config", str(path)) == {"keep_ratio": 0.25}
    flags = ["--config", str(path), "--keep-ratio", "0.5"]
    assert script_settings(parser, *flags) == {"keep_ratio": 0.5}


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--keep-ratio", "1.5"], ["argument --keep-ratio", "[0.01, 1]", "1.5"]),
        (["--keep-ratio", "nan"], ["argument --keep-ratio", "nan"]),
        (["--keep-ratio", "a lot"], ["argument --keep-ratio", "'a lot'"]),
        (["--visual-token-budget", "0"], ["argument --visual-token-budget", "[1, 65536]"]),
        (["--visual-token-budget", "1.5"], ["argument --visual-token-budget", "1.5"]),
        (["--keep-ratio", "0.5", "--visual-token-budget", "5"], ["not allowed with"]),
        (["--script-cache-gb", "-1"], ["argument --script-cache-gb", "[0, 1024]", "-1"]),
        (["--script-shadow", "0"], ["argument --script-shadow", "(0, 1]", "got 0"]),
        (["--script-shadow", "2"], ["argument --script-shadow", "(0, 1]", "got 2"]),
        (
            ["--script-shadow", "0.5", "--max-keep-ratio", "0.5"],
            ["max_keep_ratio 0.5", "leave one of the two out"],
        ),
        (["--script-mode", "best"], ["argument --script-mode", "cdpruner"]),
        (["--script-kernels", "cuda"], ["argument --script-kernels", "triton"]),
        (["--script-answer-phrases", "gone"], ["argument --script-answer-phrases", "read gone"]),
        (["--script-conversation", "last"], ["argument --script-conversation", "latest"]),
        (["--plugin", "scrip"], ["argument --plugin", "script"]),
        (["--additional-config", '{"script": {"keep": 1}}'], ["unknown key 'keep' in script"]),
        (["--additional-config", '{"script": 0.5}'], ["script must be a dictionary"]),
    ],
)
def test_mistakes_are_usage_errors(parser, flags, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        script_settings(parser, *flags)
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


def test_help_explains_every_flag(parser, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        parser.parse_args(["serve", "--help=Script"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"--plugin {{script}} {PLUGIN_MEANING} --" in text
    for setting in SETTINGS:
        default = f" (default: {setting.shown_default})" if setting.shown_default else ""
        expected = f"{setting.flag} {setting.description}{default} "
        assert (expected in text) == (setting.flag is not None)
    assert "(default: 0.11)" in text
    assert text.startswith("Script:")
    assert "--max-model-len" not in text
    assert "(default: None)" not in text


WITH_FLAG = [setting for setting in SETTINGS if setting.flag is not None]


@pytest.mark.parametrize("setting", WITH_FLAG, ids=lambda setting: setting.key)
def test_every_flag_reaches_its_setting(parser, setting, tmp_path):
    """From the command line to the settings in force, with a value that is not the default."""
    match setting.values:
        case Switch():
            arguments, value = [], True
        case Number(high=high, integer=integer):
            value = int(high) if integer else 0.75 * high
            arguments = [str(value)]
        case Choice(names=names):
            value = [name for name in names if name != setting.default][-1]
            arguments = [value]
        case Lines():
            lines = tmp_path / "lines.txt"
            lines.write_text("Be brief\n\n  Mind the gap \n")
            value, arguments = ["Be brief", "Mind the gap"], [str(lines)]
        case _:
            value, arguments = "some/name", ["some/name"]
    flags = [setting.flag.split()[0], *arguments]
    given = script_settings(parser, *flags)
    assert given == {setting.key: value}
    assert value != setting.default
    config = ScriptConfig.from_dict(given)
    reached = config.params if setting in settings_of(PruningParams) else config
    assert getattr(reached, setting.key) == value


def test_engine_config_without_pruning_is_stock(checkpoint):
    config = AsyncEngineArgs(str(checkpoint("llava-next"))).create_engine_config().model_config
    assert config.architectures == ["LlavaNextForConditionalGeneration"]
    assert not hasattr(config, "vllm_script")


@pytest.mark.parametrize("overrides", [{"rope_x": 1, "text_config": {"rope_y": 2}}, "callable"])
def test_engine_config_keeps_the_users_overrides(checkpoint, overrides):
    if overrides == "callable":
        overrides = set_two
    args = AsyncEngineArgs(
        str(checkpoint("llava-next")),
        additional_config={"script": {"keep_ratio": 0.5}},
        hf_overrides=overrides,
    )
    model_config = args.create_engine_config().model_config
    hf_config = model_config.hf_config
    assert hf_config.architectures == ["ScriptLlavaNextForConditionalGeneration"]
    assert ScriptConfig.of(model_config).keep_ratio == 0.5
    assert (hf_config.rope_x, hf_config.text_config.rope_y) == (1, 2)


def test_the_users_overrides_are_put_back(checkpoint):
    """vLLM reads them again, and not as it reads a callable."""
    overrides = {"quantization_config_dict_json": "{}"}
    settings = dict(additional_config={"script": {}}, hf_overrides=overrides)
    args = AsyncEngineArgs(str(checkpoint("llava-next")), **settings)
    assert args.create_engine_config().model_config.hf_overrides is overrides
    assert args.hf_overrides is overrides


def test_options_that_are_no_dict_are_left_alone(checkpoint):
    class Options:
        def compute_hash(self):
            return "x"

    args = AsyncEngineArgs(str(checkpoint("llava-next")), additional_config=Options())
    assert args.create_model_config().architecture == "LlavaNextForConditionalGeneration"


def test_the_configuration_reaches_other_processes(checkpoint):
    import pickle

    args = AsyncEngineArgs(str(checkpoint("llava-next")), additional_config={"script": {}})
    sent = pickle.loads(pickle.dumps(args.create_engine_config()))
    inner = sent.with_hf_config(sent.model_config.hf_config.text_config, ["LlamaForCausalLM"])
    assert sent.model_config.architecture == "ScriptLlavaNextForConditionalGeneration"
    for config in (sent, inner):  # vLLM makes the second one for the language model
        assert config.model_config.vllm_script["keep_ratio"] == 0.11
        assert config.ec_manager_config.encoder_cache_manager_cls == ENCODER_CACHE_MANAGER


@pytest.mark.parametrize("family", ["llava-next", "qwen2.5-vl"])
def test_the_language_model_is_not_compiled_anew_for_other_settings(checkpoint, family):
    """vLLM's key for what it has compiled changes with the model, and not with our settings."""

    def key(script, **changes):
        options = {"other": 1, "script": script} if script is not None else {"other": 1}
        args = AsyncEngineArgs(str(checkpoint(family)), additional_config=options, **changes)
        return args.create_engine_config().compute_hash()

    same = [{}, {"keep_ratio": 0.5}, {"explain": True}, {"mode": "uniform", "relevance": "none"}]
    same += [{"visual_token_budget": 7, "cache_gb": 0}, {"max_keep_ratio": 0.5}, {"shadow": 0.1}]
    same += [{"kernels": "torch"}]
    (known,) = {key(script) for script in same}
    others = [key(None), key({}, hf_overrides={"x": 1}), key({}, dtype="float16")]
    assert known not in others and len(set(others)) == 3


def test_other_options_stay(checkpoint):
    options = {"other": 1, "script": {}}
    args = AsyncEngineArgs(str(checkpoint("llava-next")), additional_config=options)
    assert args.create_engine_config().additional_config == {"other": 1}
    assert args.additional_config == {"other": 1, "script": {}}
    args.create_engine_config()  # again, as for another engine


def test_settings_are_left_in_the_arguments_for_further_api_servers(parser):
    """These are processes of their own, that start from the arguments before any plugin loads."""
    args = parser.parse_args(["serve", "--plugin", "script", "--keep-ratio", "0.5"])
    AsyncEngineArgs.from_cli_args(args)
    assert args.additional_config == {"script": {"keep_ratio": 0.5}}


def connector(name, module=None, **options):
    return KVTransferConfig(
        kv_connector=name,
        kv_role="kv_both",
        kv_connector_module_path=module,
        kv_connector_extra_config=options,
    )


def set_two(hf_config):
    hf_config.rope_x = 1
    if hasattr(hf_config, "text_config"):
        hf_config.text_config.rope_y = 2
    return hf_config


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hf_overrides": {"vision_feature_select_strategy": "full"}}, ["'full'", "patches alone"]),
        (
            {"enable_lora": True, "enable_tower_connector_lora": True},
            ["LoRA", "--enable-tower-connector-lora"],
        ),
        ({"additional_config": {"script": {"keep_ratio": 2}}}, ["keep_ratio", "got 2"]),
        (
            {"ec_transfer_config": {"ec_connector": "ECMooncakeConnector", "ec_role": "ec_both"}},
            ["ECExampleConnector alone", "ECMooncakeConnector"],
        ),
        (
            {
                "mm_encoder_only": True,
                "additional_config": {"script": {"relevance": "lm-attention"}},
            },
            ["lm-attention", "does not load"],
        ),
        (
            {"ec_manager_config": {"encoder_cache_manager_cls": "a.B"}},
            ["encoder work", "a.B", "--ec-manager-config"],
        ),
        (
            {"additional_config": {"script": {"explain": True}}, "worker_extension_cls": "a.B"},
            ["--script-explain", "a.B", "leave one"],
        ),
        (
            {"additional_config": {"script": {"shadow": 0.1}}, "logprobs_mode": "raw_logits"},
            ["--script-shadow", "raw_logits", "leave one"],
        ),
        ({"tokenizer_mode": "deepseek_v32"}, ["deepseek_v32", "--tokenizer-mode hf"]),
        ({"mm_encoder_attn_dtype": "fp8"}, ["dynamic scales", "--mm-encoder-fp8-scale-path"]),
        ({"kv_transfer_config": connector("LMCacheMPConnector")}, ["token ids", "Offloading"]),
    ],
)
def test_what_cannot_work_is_refused_at_start_up(checkpoint, changes, words):
    settings = {"additional_config": {"script": {}}} | changes
    with pytest.raises(ValueError) as error:
        AsyncEngineArgs(str(checkpoint("llava-next")), **settings).create_engine_config()
    for word in words:
        assert word in str(error.value)


def test_other_models_are_refused(checkpoint, tmp_path):
    import json
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llava-next"), folder)
    config = json.loads((folder / "config.json").read_text())
    text_only = config["text_config"] | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(text_only))
    with pytest.raises(ValueError, match="does not know .*LlamaForCausalLM.*doctor"):
        AsyncEngineArgs(str(folder), additional_config={"script": {}}).create_engine_config()


def test_start_up_errors_of_the_command_line_are_one_line(parser, capsys):
    """The library raises them; `vllm serve` prints them and ends."""
    flags = ["--script-clip-model", "/no/such/folder"]
    args = parser.parse_args(["serve", *flags])
    with pytest.raises(SystemExit) as exit_:
        AsyncEngineArgs.from_cli_args(args).create_engine_config()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("vllm: error: the CLIP checkpoint /no/such/folder cannot be read")


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton's kernels run on this GPU")
def test_kernels_that_cannot_run_are_refused_in_one_line(parser, capsys, monkeypatch):
    monkeypatch.setattr("vllm_script.checks.is_interpreted", lambda: False)
    args = parser.parse_args(["serve", "--script-kernels", "triton"])
    with pytest.raises(SystemExit):
        AsyncEngineArgs.from_cli_args(args).create_engine_config()
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("vllm: error: --script-kernels triton needs an NVIDIA GPU")


def test_unsupported_vllm_is_refused_in_one_line(checkpoint, monkeypatch):
    args = AsyncEngineArgs(str(checkpoint("llava-next")), additional_config={"script": {}})
    monkeypatch.setattr("vllm.__version__", "0.99.0")
    with pytest.raises(RuntimeError, match=r"supports vLLM .*: this is 0\.99\.0"):
        args.create_engine_config()
