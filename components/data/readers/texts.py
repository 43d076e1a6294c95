"""Text files as numbered lines: UTF-8 with or without a byte order mark, ended by LF, CRLF or CR alike.

Only these end a line: other separators of Unicode, such as U+2028 or a vertical tab, are content.
"""

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from components.data.readers.sources import file_problem
from components.errors import DataError

CHUNK_BYTES = 1 << 22
LONGEST_MARK = 4
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Each line's number, from 1, and its text without the end; the last one needs none.

    Raises:
        DataError: the file is not UTF-8; the message says at which byte.
    """
    number = 0
    pending: list[str] = []  # a line that has not ended yet, in pieces: lines may be long
    held = ""
    for text in _texts(stream, name):
        found = (held + text).replace("\r\n", "\n")
        # A lone CR may be the first half of a CRLF that the next chunk completes.
        held = "\r" if found.endswith("\r") else ""
        first, *others = found[: len(found) - len(held)].replace("\r", "\n").split("\n")
        pending.append(first)
        if others:
            *whole, last = others
            for line in ("".join(pending), *whole):
                number += 1
                yield number, line
            pending = [last]
    if (line := "".join(pending)) or held:
        yield number + 1, line


def _texts(stream: BinaryIO, name: str) -> Iterator[str]:
    """The file's text in chunks, without the byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk = _start(stream)
    refuse_other_encodings(chunk, name)
    at = len(codecs.BOM_UTF8) if chunk.startswith(codecs.BOM_UTF8) else 0
    chunk = chunk[at:] or stream.read(CHUNK_BYTES)
    while True:
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise not_utf8(name, at - pending + error.start, error.object[error.start]) from error
        yield text
        if not chunk:
            return
        at += len(chunk)
        chunk = stream.read(CHUNK_BYTES)


def _start(stream: BinaryIO) -> bytes:
    """The first chunk, long enough for any byte order mark unless the file is shorter."""
    start = stream.read(CHUNK_BYTES)
    while len(start) < LONGEST_MARK and (more := stream.read(CHUNK_BYTES)):
        start += more
    return start


def refuse_other_encodings(start: bytes, name: str) -> None:
    """Raise DataError for a file whose byte order mark, or whose zero bytes, say that it is not UTF-8."""
    for mark, encoding in MARKS:
        if start.startswith(mark):
            raise _refused(name, f"byte 0 begins the mark of {encoding}, expected UTF-8")
    if (at := start[:4096].find(b"\0")) >= 0:
        raise _refused(name, f"byte {at} is zero, which UTF-8 text has not; is the file UTF-16, or binary?")


def not_utf8(name: str, offset: int, byte: int) -> DataError:
    """The error of a file with a byte that UTF-8 does not allow at that place."""
    return _refused(name, f"byte {offset} (0x{byte:02x}) is not UTF-8; is the file Latin-1 or Windows-1252?")


def _refused(name: str, message: str) -> DataError:
    return DataError(
        "A file is in another encoding.",
        problems=[file_problem(name, message)],
        hint="Convert it, for example with: iconv -f LATIN1 -t UTF-8 FILE",
    )
