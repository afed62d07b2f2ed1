"""MS MARCO's broken characters: UTF-8 that was once read as Latin-1, within text that is right otherwise.

The collection holds both "café" and "cafÃ©". ir_datasets repairs it while it unpacks the file, at some thousand
passages a second; this gives the same text, found by one expression on the bytes as they come.
"""

from __future__ import annotations

import re

# A character of 0x80 to 0xbf is c2 and itself in UTF-8, one of 0xc0 to 0xff is c3 and itself less 0x40. So this finds
# what was one character of two, three or four bytes before each byte became a character: well-formed UTF-8 only, no
# overlong forms, no surrogates, nothing beyond U+10FFFF.
TAIL = rb"\xc2[\x80-\xbf]"
BROKEN = re.compile(
    rb"\xc3(?:[\x82-\x9f]" + TAIL
    + rb"|\xa0\xc2[\xa0-\xbf]" + TAIL
    + rb"|[\xa1-\xac\xae\xaf]" + TAIL + TAIL
    + rb"|\xad\xc2[\x80-\x9f]" + TAIL
    + rb"|\xb0\xc2[\x90-\xbf]" + TAIL + TAIL
    + rb"|[\xb1-\xb3]" + TAIL + TAIL + TAIL
    + rb"|\xb4\xc2[\x80-\x8f]" + TAIL + TAIL
    + rb")"
)  # fmt: skip


def repaired(text: bytes) -> bytes:
    """UTF-8 with every such run of characters made the one that it was."""
    return BROKEN.sub(lambda found: found[0].decode().encode("latin-1"), text)
