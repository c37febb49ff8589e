"""Shared by all tests: environment, tiny checkpoints, servers.

A server takes half a minute to start and 2 GB, so those that several modules ask are shared by the
session, and the others stop with their module.
"""

import os
import pathlib
import sys
import threading
from unittest import mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The repository root on sys.path would make our kernels/ importable as `kernels`.
sys.path[:] = [p for p in sys.path if pathlib.Path(p or ".").resolve() != ROOT]

os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    PYTORCH_NVML_BASED_CUDA_CHECK="1",  # to ask for a GPU does not start CUDA in this process
    PYTHONHASHSEED="0",  # vLLM logs sets; two servers' logs are compared
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_MLA_DISABLE="1",  # on CPUs it takes heads of one size, and neither chunks nor prefix cache
    VLLM_NO_USAGE_STATS="1",
)

import pytest  # noqa: E402
import torch  # noqa: E402

# Triton's interpreter is for all kernels of a process, and to be chosen before Triton is imported.
# On a GPU vLLM's own kernels must run as they are: ours are tested in a process of their own there,
# see tests/kernels/test_interpreter.py. Elsewhere vLLM has none, and one process serves both.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ENVIRONMENT = dict(os.environ)
"""What servers start with: engines in this process leave variables of their own in os.environ."""

# Float32 and small blocks: tokens do not flip on last bits, and a small image fills whole blocks.
ENGINE_FLAGS = (
    *("--enforce-eager", "--dtype", "float32", "--block-size", "32", "--max-model-len", "4096"),
    *("--served-model-name", "tiny", "--enable-prompt-tokens-details"),
    *("--limit-mm-per-prompt", '{"image": 4}', "--num-gpu-blocks-override", "1024"),
)


SERVERS = {"stock_server", "pruning_server", "uncached_server", "vllm_server"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what is in tests/real/, or asks for one of the servers here, as `real`."""
    for item in items:
        if "real" in item.path.relative_to(ROOT).parts or SERVERS & set(item.fixturenames):
            item.add_marker(pytest.mark.real)


def pytest_terminal_summary(terminalreporter):
    """Say how often kernels and references settled a tie differently, in all processes."""
    passed, failed = map(terminalreporter.getreports, ("passed", "failed"))
    reports = [report for report in passed + failed if report.when == "call"]
    ties = [counts for r in reports for name, counts in r.user_properties if name == "ties"]
    if ties:
        choices, differing, beyond = map(sum, zip(*ties, strict=True))
        terminalreporter.write_line(
            f"of {choices} choices, kernels settled {differing} otherwise than the reference; "
            f"{beyond} are 1e-5 or more worse than float64's, by no more than float32 rounds "
            "(kernels/testing.py)"
        )


@pytest.fixture
def vllm_script(monkeypatch, capsys):
    """vllm_script(*words) -> exit status of the command, what it prints, what it says on stderr."""
    from vllm_script.server import command

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["vllm-script", *map(str, words)])
        status = 0
        try:
            command.main()
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """checkpoint(family) -> folder of a small model with random weights."""
    from vllm_script.benchmarks.checkpoints import write

    folders, writing = {}, threading.Lock()

    def written(family):
        with writing:  # servers may be started side by side
            if family not in folders:
                folders[family] = tmp_path_factory.mktemp("models") / family
                write(folders[family], family)
        return folders[family]

    return written


@pytest.fixture(scope="session")
def family_checkpoint(checkpoint):
    """As `checkpoint`; tests of all families ask for it by this name."""
    return checkpoint


@pytest.fixture(scope="session")
def known_family(family_checkpoint):
    """known_family(name of a checkpoint) -> what the plugin knows of it: its `Family`."""
    from vllm_script.families import family_of, pruned_name

    from .mistral import architecture

    def known(name):
        return family_of(pruned_name(architecture(family_checkpoint(name))))

    return known


@pytest.fixture(scope="session")
def server_environment():
    """What a command that starts a server has in its environment: it is started as users do."""
    return ENVIRONMENT | {"TRITON_INTERPRET": "0"}


@pytest.fixture(scope="session")
def vllm_server(checkpoint):
    """vllm_server(family, *flags, port, **env) -> a server, to be run by a `with` statement."""
    from vllm_script.server.launch import VllmServer

    def server(family, *flags, port=None, **env):
        env = {"TRITON_INTERPRET": "0", **env}  # a server is started as users start it
        folder = checkpoint(family)
        with mock.patch.dict(os.environ, ENVIRONMENT, clear=True):
            return VllmServer(folder, *ENGINE_FLAGS, *flags, env=env, port=port)

    return server


@pytest.fixture(scope="session")
def stock_server(vllm_server):
    """vLLM as it is: the plugin is not even loaded."""
    with vllm_server("llava-next", "--enable-scale-out", VLLM_PLUGINS="none") as server:
        yield server


@pytest.fixture(scope="session")
def pruning_server(vllm_server):
    """The command line of the README, all caches on, and explain."""
    flags = ("--plugin", "script", "--keep-ratio", "0.11", "--enable-mm-embeds")
    flags += ("--script-explain", "--enable-scale-out")
    with vllm_server("llava-next", *flags) as server:
        yield server


@pytest.fixture(scope="session")
def uncached_server(vllm_server):
    """Like `pruning_server`, every cache off, and a KV cache of one longest prompt."""
    caches_off = ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0")
    caches_off += ("--script-cache-gb", "0")
    caches_off += ("--num-gpu-blocks-override", "129", "--enable-scale-out")
    flags = ("--plugin", "script", "--keep-ratio", "0.11", *caches_off)
    with vllm_server("llava-next", *flags) as server:
        yield server
