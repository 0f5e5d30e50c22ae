"""Which of a pickle's remembered values are asked for again: the others need not be kept while it is read.

Easy to get wrong: a pickle remembers every list and every text, a hundred for each face, and recalls a handful. Keeping
all of them is what makes reading a large file cost many times its size.
"""

from __future__ import annotations

import re
from typing import Final

# Opcodes with arguments of fixed length that recall nothing; see `pickletools`. A bounded repeat keeps `re` frugal.
_RUN: Final = re.compile(
    rb"(?:[\x94(0N\x88\x89}\])\x8f\x85\x86\x87taesu\x90\x91\x93Rb]|G.{8}|[Kq\x80].|M..|[Jr].{4}|\x95.{8}){1,4096}",
    re.DOTALL,
)
# Opcodes whose argument is preceded by its length, in so many bytes.
_COUNTED: Final = {0x8A: 1, 0x8C: 1, 0x43: 1, 0x58: 4, 0x42: 4, 0x8D: 8, 0x8E: 8}
_LINE_PAIR: Final = re.compile(rb"[^\n]*\n[^\n]*\n")


def recalled_indices(data: memoryview) -> frozenset[int]:
    """The memo indices that the pickle in `data` recalls. Stops without complaint where the pickle is damaged."""
    recalled: set[int] = set()
    position, length = 0, len(data)
    while position < length:
        run = _RUN.match(data, position)
        if run is not None:
            position = run.end()
            continue
        code = data[position]
        position += 1
        if code in _COUNTED:
            size = _COUNTED[code]
            position += size + int.from_bytes(data[position : position + size], "little")
        elif code == 0x68:  # BINGET
            recalled.update(data[position : position + 1])
            position += 1
        elif code == 0x6A:  # LONG_BINGET
            recalled.add(int.from_bytes(data[position : position + 4], "little"))
            position += 4
        elif code == 0x63 and (lines := _LINE_PAIR.match(data, position)):  # GLOBAL
            position = lines.end()
        else:  # STOP, or an opcode that the reader will refuse
            break
    return frozenset(recalled)
