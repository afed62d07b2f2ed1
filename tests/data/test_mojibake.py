"""Repaired characters are those that ir_datasets repairs, found faster."""

import io
import random
from contextlib import contextmanager

from irds_case import BROKEN

from retrieval_kd.data.mojibake import repaired


class Text:
    """What ir_datasets reads from."""

    def __init__(self, content):
        self.content = content

    @contextmanager
    def stream(self):
        yield io.BytesIO(self.content)


def theirs(irds, content):
    from ir_datasets.datasets.msmarco_passage import FixEncoding

    return b"".join(FixEncoding(Text(content)))


def test_known_cases():
    for broken, right in BROKEN.values():
        assert repaired(broken.encode()).decode() == right


def test_equals_ir_datasets_on_whatever_could_be_broken(irds, capfd):
    draw = random.Random(7)
    characters = [*map(chr, range(0x80, 0x100)), *"ÂÃâðàíôÝß\u00a0€™é a", "東", "\U0001f600"]
    texts = ["".join(draw.choices(characters, k=draw.randint(1, 12))) for _ in range(3000)]
    # And what was broken for certain, among others.
    original = [chr(draw.choice([0xE9, 0x20AC, 0x1F600, 0x7FF, 0x800, 0xFFFD, 0x10FFFF, 0xD7FF])) for _ in range(2000)]
    texts += [f"x{one}{one.encode().decode('latin-1')}{draw.choice(characters)}" for one in original]
    content = "\n".join(texts).encode() + b"\n"
    assert repaired(content) == theirs(irds, content)
    assert repaired(content) != content


def test_what_is_right_stays():
    text = "naïve café, £5, 東京, \U0001f600: ÃÂ at the end Ã".encode()
    assert repaired(text) == text
