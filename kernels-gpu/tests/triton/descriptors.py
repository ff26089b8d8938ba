"""Makes descriptors.txt again: the operands that Triton gives `tcgen05.mma`, for products of one block.

    python3 -m venv VENV && VENV/bin/pip install triton && VENV/bin/python descriptors.py > descriptors.txt

No GPU is needed: Triton is asked for compute capability 10.0, and its PTX is read. A descriptor's start is an offset from where
shared memory begins, which counts as 0; the other operands are constants.
"""
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def product(a, b, c, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ROWS_OF_B_ARE_K: tl.constexpr):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + m[:, None] * K + k[None, :])
    if ROWS_OF_B_ARE_K:
        y = tl.load(b + k[:, None] * N + n[None, :])
    else:
        y = tl.trans(tl.load(b + n[:, None] * K + k[None, :]))
    tl.store(c + m[:, None] * N + n[None, :], tl.dot(x, y))


TYPES = {"bf16": "bf16", "f16": "fp16", "e4m3": "fp8e4nv", "e5m2": "fp8e5"}
CASES = [
    ("bf16", 128, 128, 64, False),
    ("bf16", 128, 128, 128, False),
    ("bf16", 64, 128, 64, False),
    ("bf16", 128, 128, 64, True),
    ("f16", 128, 256, 64, True),
    ("f16", 128, 64, 32, False),
    ("e4m3", 128, 128, 128, False),
    ("e4m3", 128, 128, 128, True),
    ("e5m2", 128, 256, 64, True),
]


def compiled(kind, m, n, k, rows_of_b_are_k):
    pointer = "*" + TYPES[kind]
    names = {"M": m, "N": n, "K": k, "ROWS_OF_B_ARE_K": rows_of_b_are_k}
    signature = {"a": pointer, "b": pointer, "c": "*fp32"} | {name: "constexpr" for name in names}
    source = ASTSource(fn=product, signature=signature, constexprs=names)
    return triton.compile(source, target=GPUTarget("cuda", 100, 32)).asm["ptx"]


def operands(ptx):
    """(instruction, a, b) of each product, by the few instructions that make them."""
    values = {"global_smem": 0}

    def value(text):
        return values.get(text, None) if not re.fullmatch(r"-?\d+", text) else int(text)

    actions = {
        "mov": lambda x: x,
        "add": lambda x, y: x + y,
        "or": lambda x, y: x | y,
        "and": lambda x, y: x & y,
        "shl": lambda x, y: x << y,
        "shr": lambda x, y: x >> y,
        "bfe": lambda x, low, width: x >> low & ((1 << width) - 1),
    }
    for line in ptx.splitlines():
        line = line.split("//")[0].strip()
        if found := re.search(r"tcgen05\.mma\S+ \[ *(\S+) \+ 0 \], (\S+), (\S+), (\S+), ", line):
            a, b, instruction = (values[name] for name in found.groups()[1:])
            yield instruction, a, b
        elif found := re.fullmatch(r"mov\.b64\s+(\S+), \{(\S+), (\S+)\};", line):
            low, high = value(found[2]), value(found[3])
            values[found[1]] = None if None in (low, high) else (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF
        elif found := re.fullmatch(r"(\w+)\.[bsu](?:32|64)\s+(\S+), (.+);", line):
            arguments = [value(text) for text in found[3].split(", ")]
            known = found[1] in actions and None not in arguments
            values[found[2]] = actions[found[1]](*arguments) if known else None


print(f"# What Triton {triton.__version__} gives tcgen05.mma for compute capability 10.0. Made by descriptors.py beside this file.")
print("# A line: format, M, N, K, major of B (A is K-major), instruction descriptor, and of each step the descriptors of A and B.")
for case in CASES:
    steps = list(operands(compiled(*case)))
    assert steps and len({instruction for instruction, _, _ in steps}) == 1
    kind, m, n, k, rows_of_b_are_k = case
    words = [kind, m, n, k, "mn" if rows_of_b_are_k else "k", f"{steps[0][0]:#010x}"]
    print(*words, *(f"{a:#018x} {b:#018x}" for _, a, b in steps))
