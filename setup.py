"""All package metadata. `kernels/`, `server/` and `benchmarks/` install below `vllm_script`: a
top-level package called `kernels` would shadow Hugging Face's, which transformers imports."""

import pathlib

from setuptools import setup

BENCH = ["matplotlib", "scikit-learn", "scipy"]
RAY = ["ray[data,serve]>=2.60"]
# Compiles CUDA C++ without a GPU, for the tests; PyTorch for CUDA brings both.
NVRTC = ["cuda-bindings", "nvidia-cuda-nvrtc"]

setup(
    name="vllm-script",
    version="0.1.0",
    description="Query-conditioned visual-token pruning (Script) for vLLM",
    long_description=pathlib.Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.15",
    package_dir={
        "vllm_script": "vllm_script",
        "vllm_script.benchmarks": "benchmarks",
        "vllm_script.kernels": "kernels",
        "vllm_script.server": "server",
    },
    packages=[
        "vllm_script",
        # Not demo_model/, photo_model/ and training/: training is done in a checkout.
        "vllm_script.benchmarks",
        "vllm_script.benchmarks.accuracy",
        "vllm_script.benchmarks.checkpoints",
        "vllm_script.benchmarks.gpu",
        "vllm_script.benchmarks.kernel",
        "vllm_script.benchmarks.lmms_eval",
        "vllm_script.benchmarks.photos",
        "vllm_script.benchmarks.scaling",
        "vllm_script.benchmarks.scenes",
        "vllm_script.benchmarks.serving",
        "vllm_script.benchmarks.soaking",
        "vllm_script.benchmarks.thinning",
        "vllm_script.benchmarks.tuning",
        "vllm_script.kernels",
        "vllm_script.kernels.farthest_first",
        "vllm_script.kernels.greedy_cover",
        "vllm_script.kernels.greedy_map",
        "vllm_script.kernels.greedy_map.cluster",
        "vllm_script.kernels.reduce_graph",
        "vllm_script.kernels.similarity",
        "vllm_script.explain",
        "vllm_script.families",
        "vllm_script.frontend",
        "vllm_script.patches",
        "vllm_script.pruning",
        "vllm_script.relevance",
        "vllm_script.server",
        "vllm_script.server.deploy",
        "vllm_script.worker",
    ],
    package_data={
        "vllm_script": ["py.typed", "script_demo/*", "script_demo/clip/*"],
        "vllm_script.benchmarks": ["scene.png"],
        # Installed into lmms-eval's environment, not into this one.
        "vllm_script.benchmarks.lmms_eval": ["plugin/*.toml", "plugin/*/*.py"],
        # Compiled where a GPU is that has clusters.
        "vllm_script.kernels.greedy_map.cluster": ["*.cu", "*.cuh"],
        "vllm_script.server": ["grafana.json", "page/*"],
    },
    install_requires=["vllm>=0.32,<0.34", "torch", "triton", "transformers", "fastapi", "httpx"],
    extras_require={
        # What the benchmarks need beside what comes with vLLM.
        "bench": BENCH,
        # What reads the trained parts of benchmarks/photo_model/: a GGUF and an ONNX file.
        "photo-model": ["accelerate", "gguf", "onnx"],
        # What server/deploy/ray_serve.py and ray_data.py need.
        "ray": RAY,
        "dev": [
            *(*BENCH, *NVRTC, *RAY, "pytest", "pytest-xdist", "hypothesis"),
            "playwright",  # drives the Chromium of the system; it downloads none by itself
            *("ruff==0.17.6", "mypy==2.4.1"),
        ],
    },
    entry_points={
        "vllm.general_plugins": ["script = vllm_script.plugin:register"],
        "console_scripts": ["vllm-script = vllm_script.server.command:main"],
    },
)
