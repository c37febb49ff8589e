"""Compile every kernel launch of the public ops to machine code, without a GPU.

Run by test_compile.py in a process of its own: the test process has Triton's interpreter on, where
kernels cannot be compiled. Prints one JSON object a kernel, argument types and architecture.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

# Not an import statement: the package's greedy_map is the function.
MODULES = {
    name: importlib.import_module(f"vllm_script.kernels.{name}")
    for name in ("gather", "greedy_map", "norms", "redundancy", "reduce_graph", "relevance")
}

ARCHITECTURES = (80, 90)

# What a launch says to the compiler, besides the kernel's own constants.
OPTIONS = ("num_warps", "num_stages", "maxnreg")

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int8: "*i8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Recorder:
    """Stands in for a kernel: notes what it is launched with, as Triton would specialise it."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, launch_cooperative_grid=False, **constants):
        options = {name: constants.pop(name) for name in OPTIONS if name in constants}
        values = {**dict(zip(self.kernel.arg_names, args, strict=False)), **constants}
        assert list(values) == self.kernel.arg_names
        signature, constexprs, attrs = {}, {}, {}
        for place, (name, value) in enumerate(values.items()):
            if name in constants or value is None or (isinstance(value, int) and value == 1):
                signature[name], constexprs[(place,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[name] = TYPES[value.dtype]
                if value.data_ptr() % 16 == 0:
                    attrs[(place,)] = [["tt.divisibility", 16]]
            elif isinstance(value, int):
                signature[name] = "i32"
                if value % 16 == 0:
                    attrs[(place,)] = [["tt.divisibility", 16]]
            else:
                signature[name] = "fp32"
        self.launches.append((self.kernel, signature, constexprs, attrs, options))


def record_launches(everything):
    """The launches of an image of LLaVA-NeXT and of odd rows; everything: of all dtypes too."""
    launches = []
    for module in MODULES.values():
        if hasattr(module, "use_triton"):
            module.use_triton = lambda backend, x: True
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                setattr(module, name, Recorder(value, launches))
    launch_one_image(torch.ones(2880, 4096, dtype=torch.bfloat16))
    launch_many_images(torch.ones(96, 63, dtype=torch.float16))
    if everything:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for dim in (4096, 63):
                launch_one_image(torch.ones(96, dim, dtype=dtype))
                launch_many_images(torch.ones(5760, dim, dtype=dtype))
    return launches


def launch_one_image(rows):
    num, inverse_norm = len(rows), torch.ones(len(rows))
    pool = MODULES["reduce_graph"].reduce_graph(
        rows, num // 2, tau=0.1, tau_relative=True, gamma=1.0, inverse_norm=inverse_norm
    )
    MODULES["greedy_map"].greedy_map(rows, inverse_norm, num // 9, pool=pool)
    floors = [num // 36] * 4
    MODULES["greedy_map"].greedy_map(rows, inverse_norm, num // 9, pool=pool, floors=floors)
    MODULES["norms"].inverse_norms(rows)
    MODULES["redundancy"].bipartite_redundancy(rows[::2], rows[1::2], 0.2, 1.0)
    MODULES["relevance"].query_relevance(rows, rows[:4])
    MODULES["gather"].gather_rows(rows, torch.arange(9))


def launch_many_images(rows):
    lengths = [len(rows) // 3, len(rows) - len(rows) // 3]
    MODULES["reduce_graph"].reduce_graph(
        rows, [5, 6], tau=0.1, tau_relative=False, gamma=1.0, lengths=lengths
    )
    MODULES["greedy_map"].greedy_map(rows, None, [5, 6], lengths=lengths)
    MODULES["relevance"].query_relevance(rows, rows[:4], lengths=lengths, query_lengths=[1, 3])


def compile_launch(kernel, signature, constexprs, attrs, options, arch):
    target = GPUTarget("cuda", arch, 32)
    source = ASTSource(kernel, signature, constexprs, attrs)
    compiled = triton.compile(source, target=target, options=options)
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
        "warps": compiled.metadata.num_warps,
        "cubin_bytes": len(compiled.asm["cubin"]),
        "shared_bytes": compiled.metadata.shared,
        "registers": int(re.search(r"Used (\d+) registers", report).group(1)),
        "spill_bytes": sum(map(int, re.findall(r"(\d+) bytes spill", report))),
    }


def main(everything):
    seen = set()
    for launch in record_launches(everything):
        key = repr((launch[0].__name__, *launch[1:]))
        if key not in seen:
            seen.add(key)
            for arch in ARCHITECTURES:
                print(json.dumps(compile_launch(*launch, arch)), flush=True)


if __name__ == "__main__":
    main(everything="--everything" in sys.argv)
