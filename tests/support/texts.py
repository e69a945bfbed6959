"""Texts that some database or other confuses, or cannot store."""

ALIKE = [
    "a",
    "A",
    "a ",
    " a",
    "ä",
    "a\u0308",
    "Ä",
    "á",
    "ß",
    "ss",
    "a\t",
    "a\n",
    "😀",
    "😁",
    "ﬀ",
    "ff",
    "a%",
    "a_",
    "1",
    "01",
]
"""Some collation takes each for another one."""

PLANES = [chr(plane * 0x1_0000 + offset) for plane in range(17) for offset in (0xFDCF, 0xFFFF)]
"""Two of each plane, the last character of all among them."""
