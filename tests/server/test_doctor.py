"""`vllm-script doctor`: well, wrong, and without the user's folders."""

import getpass
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import vllm_script
from vllm_script.kernels import self_test
from vllm_script.patches import supported
from vllm_script.patches.probing import EXISTS
from vllm_script.server import command, doctor
from vllm_script.server import report as report_module

DEMO = pathlib.Path(vllm_script.__file__).parent / "script_demo"
ANY_PATH = re.compile(r"(?<![\w/:])/\w")


def in_a_process(*words, before=""):
    """(status, stdout, stderr) of the command in a process of its own."""
    code = f"{before}\nimport sys\nfrom vllm_script.server.command import main\nmain()"
    arguments = [sys.executable, "-c", code, "doctor", *words]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run(monkeypatch, capfd):
    """run(*arguments) -> (exit status, report, what is printed as an error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vllm-script", "doctor", *map(str, arguments)])
        monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")  # doctor sets it for its own process
        status = 0
        try:
            command.main()
        except SystemExit as exit_:
            status = exit_.code
        return (status, *capfd.readouterr())

    return run


def lines_of(report, name):
    """The word and the text of one check; the text without the breaks of its lines."""
    match = re.search(rf"^(ok|wrong|-) +{name} +(.*(?:\n {{15,}}.*)*)", report, re.MULTILINE)
    return match[1], re.sub(r"\s+", " ", match[2])


def test_a_healthy_installation():
    status, report, errors = in_a_process("script-demo")
    assert (status, errors) == (0, "")
    lines = report.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= report_module.COLUMNS
    assert lines[0] == f"vllm-script {vllm_script.__version__} doctor"
    assert lines[-1] == "All is well: pruning works here."
    words = {line.split()[0] for line in lines[2:-2] if not line.startswith(" ")}
    assert words == {"ok"}
    assert lines_of(report, "torch") == ("ok", torch.__version__)
    assert re.fullmatch(r"(\d+) of \1 hold", lines_of(report, "probes")[1])
    model = "script-demo: LlavaNextForConditionalGeneration, model runner V"
    assert lines_of(report, "model")[1][:-1] == model
    assert lines_of(report, "relevance") == ("ok", "clip, with the clip folder of the model")
    assert lines_of(report, "pruning")[1].endswith("(224x224: 1008 -> 111 visual tokens)")
    assert not ANY_PATH.search(report)


def test_without_a_model(run):
    status, report, _ = run()
    assert status == 0
    assert "model" not in report and "wrong" not in report


def test_another_version():
    before = "import vllm\nvllm.__version__ = '0.99.0'"
    status, report, _ = in_a_process("script-demo", before=before)
    assert status == 1
    assert lines_of(report, "vLLM") == ("wrong", "0.99.0 (supported: 0.32.x and 0.33.x)")
    assert lines_of(report, "probes")[0] == "ok"
    word, text = lines_of(report, "model")
    assert word == "wrong" and "supports vLLM 0.32.x and 0.33.x: this is 0.99.0" in text
    assert report.splitlines()[-1] == "2 things are wrong: vLLM, model."


@pytest.mark.parametrize("count", [1, 9])
def test_probes_that_do_not_hold(run, monkeypatch, count):
    for index in range(count):
        monkeypatch.setitem(supported.WORKER, f"vllm.config.vllm:VllmConfig.gone{index}", EXISTS)
    status, report, _ = run()
    word, text = lines_of(report, "probes")
    assert (status, word) == (1, "wrong")
    assert text.startswith(f"{count} of ") and "has no attribute 'gone0'" in text
    assert ("and 5 more" in text) == (count == 9)
    assert report.splitlines()[-1] == "1 thing is wrong: probes."


def test_a_kernel_that_is_wrong(run, monkeypatch):
    def first_tokens(similarity, relevance, budgets):
        return torch.arange(budgets[0])

    monkeypatch.setattr(self_test, "greedy_map", first_tokens)
    status, report, _ = run()
    word, text = lines_of(report, "kernels")
    assert (status, word) == (1, "wrong")
    assert text.startswith("PyTorch on the CPU: greedy_map failed") and "the best is" in text


def test_vllm_does_not_load_the_plugin(run, monkeypatch):
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert lines_of(run()[1], "plugin") == (
        "wrong",
        "VLLM_PLUGINS leaves it out; add script to it, or unset it",
    )
    monkeypatch.setenv("VLLM_PLUGINS", "other,script")
    assert run()[0] == 0
    monkeypatch.setattr(doctor.importlib.metadata, "entry_points", lambda **which: ())
    assert "install vllm-script again" in lines_of(run()[1], "plugin")[1]


def test_no_vllm():
    status, report, errors = in_a_process(
        "script-demo",
        before="import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'vllm' else find(name, *rest)",
    )
    assert (status, errors) == (1, "")
    assert lines_of(report, "vLLM") == ("wrong", "is not installed; install vllm 0.33.x")
    assert lines_of(report, "kernels")[0] == "ok"
    for name in ("probes", "model"):
        assert lines_of(report, name) == ("-", "not checked, for vLLM cannot be used")


def test_a_vllm_that_does_not_fit_the_machine(tmp_path):
    (tmp_path / "vllm").mkdir()
    broken = "raise OSError('/home/somebody/lib/libcudart.so.13: cannot open shared object file')"
    (tmp_path / "vllm" / "__init__.py").write_text(broken)
    before = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})"
    status, report, errors = in_a_process("script-demo", before=before)
    assert (status, errors) == (1, "")
    word, text = lines_of(report, "vLLM")
    assert word == "wrong"
    assert "cannot be imported: OSError: libcudart.so.13: cannot open shared object" in text
    assert not ANY_PATH.search(report)


@pytest.mark.parametrize("model", ["llama", "/no/such/folder", "./org/name", "a/b/c"])
def test_a_model_that_is_not_known(run, model):
    status, report, errors = run(model)
    assert (status, report) == (2, "")
    *_, line = errors.splitlines()
    name = model.rpartition("/")[2]
    assert f"error: argument MODEL: the model {name} is not known; give a folder" in line
    assert "script-demo" in line


@pytest.fixture
def folder(tmp_path):
    """folder(**changes) -> a copy of script-demo with these changes; of weights it has CLIP's."""

    def folder(**changes):
        path = tmp_path / "models of mine" / "my model"
        shutil.copytree(DEMO, path)
        (path / "model.safetensors").unlink()
        config = json.loads((path / "config.json").read_text()) | changes
        (path / "config.json").write_text(json.dumps(config))
        return path

    return folder


def test_a_model_that_cannot_be_pruned(run, folder):
    path = folder()
    config = json.loads((path / "config.json").read_text())
    text_only = config["text_config"] | {"architectures": ["LlamaForCausalLM"]}
    (path / "config.json").write_text(json.dumps(text_only))
    status, report, _ = run(path)
    word, text = lines_of(report, "model")
    assert (status, word) == (1, "wrong")
    assert "does not know LlamaForCausalLM" in text
    assert "\nok     relevance" not in report
    assert not ANY_PATH.search(report) and "of mine" not in report


def test_a_model_that_its_family_refuses(run, folder):
    status, report, _ = run(folder(vision_feature_select_strategy="full"))
    assert status == 1
    assert "feature selection 'full'" in lines_of(report, "model")[1]


def test_where_relevance_comes_from(run, folder):
    path = folder()
    status, report, _ = run(path)
    assert status == 0
    assert lines_of(report, "model")[1].startswith("my model: LlavaNext")
    assert lines_of(report, "relevance")[1] == "clip, with the clip folder of the model"
    assert not ANY_PATH.search(report) and "of mine" not in report
    shutil.rmtree(path / "clip")
    status, report, _ = run(path)
    assert status == 0
    assert lines_of(report, "relevance")[1].startswith("none")


def test_a_clip_without_weights(run, folder):
    path = folder()
    (path / "clip" / "model.safetensors").unlink()
    status, report, _ = run(path)
    word, text = lines_of(report, "model")
    assert (status, word) == (1, "wrong")
    assert "weights of the CLIP checkpoint my model/clip cannot be read" in text
    assert not ANY_PATH.search(report) and "of mine" not in report


def test_a_repository_that_cannot_be_reached(run):
    status, report, errors = run("llava-next")  # the tests are offline
    word, text = lines_of(report, "model")
    assert (status, word, errors) == (1, "wrong", "")
    assert "llava-hf/llava-v1.6-vicuna-7b-hf" in text and "nor can it be reached" in text


def test_a_gpu_that_vllm_does_not_see(monkeypatch):
    gpus = ["NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", "NVIDIA L4"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", gpus.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (9, 0) if i < 2 else (8, 9))
    import vllm.engine.arg_utils  # noqa: F401
    import vllm.platforms

    with pytest.raises(doctor.Wrong) as error:
        doctor._device()
    assert str(error.value) == (
        "PyTorch has 2 x NVIDIA H100 80GB HBM3 (compute capability 9.0), 1 x NVIDIA L4 (compute "
        "capability 8.9), but vLLM found cpu: their builds do not fit"
    )
    gpu = SimpleNamespace(device_type="cuda")
    monkeypatch.setattr(vllm.platforms, "current_platform", gpu, raising=False)
    assert doctor._device().endswith("(compute capability 8.9); vLLM runs on cuda")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("/usr/lib/libcudart.so: not found", "libcudart.so: not found"),
        ("see ~/.cache/hub/model and (/tmp/a/b.py)", "see model and (b.py)"),
        ("https://github.com/vllm-project/vllm/issues/1", None),
        ("openai/clip-vit-large-patch14-336 at 1/2", None),
        ("{home}/x/config.json", "config.json"),
        ("'{model}/clip'", "'a folder/clip'"),
        ("in {model}.", "in a folder."),
    ],
)
def test_paths_are_removed(tmp_path, text, shown):
    model = tmp_path / "with spaces" / "a folder"
    model.mkdir(parents=True)
    names = {"home": pathlib.Path.home(), "model": model}
    remove = report_module.PathRemover(str(model))
    assert remove(text.format(**names)) == (text if shown is None else shown)


def test_no_name_of_the_user_is_printed(run):
    _, report, _ = run("script-demo")
    for secret in (getpass.getuser(), os.uname().nodename, str(pathlib.Path.cwd()), sys.prefix):
        assert not re.search(rf"\b{re.escape(secret)}\b", report)


def test_rocm_is_said_to_be_unsupported(monkeypatch):
    import vllm.engine.arg_utils  # noqa: F401

    monkeypatch.setattr(torch.version, "hip", "7.1.25424")
    with pytest.raises(doctor.Wrong, match="does not support ROCm: .* PyTorch is for ROCm 7.1"):
        doctor._device()


def with_polarity(tmp_path, polarity):
    """script-demo whose CLIP is configured so."""
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder)
    path = folder / "clip" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_polarity": polarity}))
    return folder


def test_polarity_is_measured(run, tmp_path):
    status, report, _ = run("script-demo")
    word, text = lines_of(report, "polarity")
    assert (status, word) == (0, "ok") and text.startswith("positive, as measured (AUROC 1.00")
    status, report, _ = run(with_polarity(tmp_path, "negative"))
    word, text = lines_of(report, "polarity")
    assert (status, word) == (1, "wrong")
    assert "positive as measured (AUROC 0.00" in text and '"patch_polarity": "positive"' in text
    assert not ANY_PATH.search(report)


@pytest.fixture
def renamed(checkpoint, tmp_path):
    """renamed(family, architecture) -> a small checkpoint whose configuration names another."""

    def renamed(family, architecture):
        path = tmp_path / "renamed"
        shutil.copytree(checkpoint(family), path)
        config = json.loads((path / "config.json").read_text()) | {"architectures": [architecture]}
        (path / "config.json").write_text(json.dumps(config))
        return path

    return renamed


def test_a_model_of_no_family(run, renamed):
    """What it would need is said; Qianfan-OCR is, in vLLM, a subclass of InternVL."""
    path = renamed("internvl-chat", "QianfanOCRForConditionalGeneration")
    status, report, _ = run(path, "--trust-remote-code")  # for its configuration
    word, text = lines_of(report, "model")
    assert (status, word) == (1, "wrong")
    assert "does not know QianfanOCRForConditionalGeneration" in text
    found = {name: lines_of(report, name) for name in ("relative", "layout", "positions", "tower")}
    assert {word for word, _ in found.values()} == {"-"}
    assert "a class beside ScriptInternVLChatModel in families/internvl.py" in found["relative"][1]
    layout = r"the largest image has \d+ visual tokens in 1 run, with 2 other tokens"
    assert re.match(layout, found["layout"][1])
    assert found["positions"][1].startswith("one number a token")
    assert found["tower"] == ("-", "intern_vit_6b")
    assert "Add a family" in lines_of(report, "what next")[1]
    assert not ANY_PATH.search(report)


def test_a_model_that_vllm_no_longer_has(run, renamed):
    status, report, _ = run(renamed("llava-1.5", "MantisForConditionalGeneration"))
    assert status == 1
    assert lines_of(report, "model")[1].startswith("Model architecture MantisFor")
    assert "relative" not in report
