"""Compile kernel launches to machine code, without a GPU.

Run by test_compile.py in a process of its own: the test process has Triton's interpreter on, where
kernels cannot be compiled. Prints one JSON object a variant of a kernel.

    compile_kernels.py ARCHITECTURE served       what a server warms up: all that requests can reach
    compile_kernels.py ARCHITECTURE everything   that, other dtypes, odd rows and a batch
"""

import json
import re
import subprocess
import sys
import tempfile
import time

import torch
import triton
from launches import recorded
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from vllm_script.kernels import query_relevance
from vllm_script.kernels.warm_up import warm_up

CPU = torch.device("cpu")
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def launches(arch, what):
    """Variants of kernels, each as (kernel, signature, constants, attributes, options)."""
    with recorded(arch) as variants:
        # LLaVA-NeXT: 4096 values of a visual token, 768 in CLIP's space.
        warm_up(4096, 4096, [4096, 768], torch.bfloat16, CPU)
        if what == "everything":
            for dtype in DTYPES:
                for width in 4096, 63:
                    warm_up(width, width, [width], dtype, CPU)
            rows = torch.ones(16, 64, dtype=torch.bfloat16)
            query_relevance(rows, rows[:8], lengths=[2] * 8, query_lengths=[1] * 8)
    return list(variants.values())


def compile_launch(kernel, signature, constexprs, attrs, options, arch):
    target = GPUTarget("cuda", arch, 32)
    source = ASTSource(kernel, signature, constexprs, attrs)
    started = time.perf_counter()
    compiled = triton.compile(source, target=target, options=vars(options))
    seconds = time.perf_counter() - started
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as ptx:
        ptx.write(compiled.asm["ptx"])
        ptx.flush()
        gpu_name = re.search(r"\.target (\w+)", compiled.asm["ptx"]).group(1)
        ptxas = get_ptxas(arch).path
        command = [ptxas, "-v", f"--gpu-name={gpu_name}", ptx.name, "-o", "/dev/null"]
        ptxas_run = subprocess.run(command, capture_output=True, text=True)
        report = ptxas_run.stdout + ptxas_run.stderr
        assert ptxas_run.returncode == 0, report
    return {
        "kernel": kernel.__name__,
        "arguments": [kind for kind in signature.values() if kind.startswith("*")],
        "constants": [value for value in constexprs.values() if value is not None],
        "arch": arch,
        "memory": memory_order(compiled.asm["ptx"]),
        "triton": triton.__version__,
        "seconds": round(seconds, 2),
        "warps": compiled.metadata.num_warps,
        "cubin_bytes": len(compiled.asm["cubin"]),
        "shared_bytes": compiled.metadata.shared,
        "registers": int(re.search(r"Used (\d+) registers", report).group(1)),
        "spill_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
    }


def memory_order(ptx):
    """How often the code acquires, releases, and reads what others wrote past its own cache."""
    release = r"(?:red|atom)\.global\.gpu\.release"  # the same with and without its result
    behind = rf"bar\.sync\s+0;(?:(?!st\.global|bar\.sync).)*?{release}"
    return {
        "acquires": len(re.findall(r"ld\.global\.gpu\.acquire", ptx)),
        "releases": len(re.findall(release, ptx)),
        "releases_behind_a_barrier": len(re.findall(behind, ptx, re.S)),
        "reads_past_l1": len(re.findall(r"ld\.global\.cg", ptx)),
    }


def main(arch, what):
    for launch in launches(arch, what):
        print(json.dumps(compile_launch(*launch, arch)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
