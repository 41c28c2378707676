"""What a file looks like that is not the text or the packed data that its name promises."""

import re

from finetune_trainer.errors import UserError

# Each is matched at the start of a file. Those that start with plain letters take in the bytes after them,
# so that no CSV header is mistaken for one.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (
        rb"(?i:\s*<(!doctype|html))",
        "an HTML page (a login or error page of the address?); name the file itself",
    ),
    (rb"\s*<\?xml", "an XML document (an error message of the address?); name the file itself"),
    (rb"version https://git-lfs", "a Git LFS pointer and not the data; fetch the data with `git lfs pull`"),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32 text; save it as UTF-8"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text; save it as UTF-8"),
    (rb"PK\x03\x04.{0,400}(\[Content_Types\]|xl/|word/)", "an Excel or Word file; export it as CSV"),
    (rb"PK\x03\x04", "a zip archive; unpack it and name the file in it"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel or Word file; export it as CSV"),
    (rb"\x1f\x8b", "packed by gzip; name it with .gz at its end"),
    (rb"BZh[1-9]1AY&SY", "packed by bzip2; name it with .bz2 at its end"),
    (rb"\xfd7zXZ", "packed by xz; name it with .xz at its end"),
    (rb"\x28\xb5\x2f\xfd", "packed by zstd; name it with .zst at its end"),
    (rb"PAR1\x15", "a Parquet file; name it .parquet"),
    (rb"ARROW1\x00|\xff\xff\xff\xff", "an Arrow file; name it .arrow"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", "a picture; give a file of text records"),
    (rb"%PDF-", "a PDF document; give a file of text records"),
    (rb"\x7fELF|MZ.\x00", "a program; give a file of text records"),
    (rb"SQLite format 3\x00", "an SQLite database; export its rows as CSV"),
    (rb".{257}ustar", "a tar archive; unpack it and name the file in it"),
    (rb"(.\x00){16}|(\x00.){16}", "UTF-16 text; save it as UTF-8"),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), text) for pattern, text in _SIGNATURES)
_HEAD = 64 << 10


def looks_like(head: bytes) -> str | None:
    """What the first bytes show, and what to do about it; None if they may be text of one byte a letter."""
    for pattern, text in _PATTERNS:
        if pattern.match(head):
            return text
    return (
        "a binary file (it holds NUL bytes); give a file of text records" if b"\0" in head[:_HEAD] else None
    )


def refuse_other_than_text(head: bytes, name: str) -> None:
    """UserError that says what the file is instead of text."""
    if (shape := looks_like(head)) is not None:
        raise UserError(f"{name} is {shape}.")
