"""Whether an image file is whole: what Pillow's decoders pass over without a word.

They stop once they have the last pixel, and some of them earlier: a PNG without its end, or whose compressed pixels are
too few, becomes an image, black below.
"""

import re
import zlib
from collections.abc import Callable, Iterator

_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_SOS, _EOI = 0xDA, 0xD9
_MOST_SCANS = 1000
_PIECE = 2**20
# Adam7's seven passes over an interlaced PNG: first column and row, and steps between columns and rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types


def check(kind: str, data: bytes) -> None:
    """Raise ValueError unless a file, which Pillow knows as of this format, is whole."""
    if kind in _CHECKS:
        _CHECKS[kind](data)


def _png(data: bytes) -> None:
    """Every chunk up to IEND has its checksum."""
    for kind, content, checksum in _chunks(data):
        if zlib.crc32(content, zlib.crc32(kind)) != checksum:
            raise ValueError(f"chunk {kind.decode('ascii', 'replace')} is damaged")


def check_png_pixels(data: bytes) -> None:
    """Raise ValueError unless the compressed pixels of a PNG that passed `check` are as many as its header says."""
    chunks = list(_chunks(data))
    header = next(content for kind, content, _ in chunks if kind == b"IHDR")
    if _inflated([content for kind, content, _ in chunks if kind == b"IDAT"]) < _png_bytes(header):
        raise ValueError("its pixels end early")


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, int]]:
    """Kind, content and checksum of each chunk of a PNG."""
    view, at, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + size
        if end + 4 > len(data):
            raise ValueError("the file ends early")
        yield kind, view[at + 8 : end], int.from_bytes(view[end : end + 4], "big")
        at = end + 4


def _inflated(pieces: list[memoryview]) -> int:
    """Bytes that a zlib stream has, without keeping them."""
    stream, total = zlib.decompressobj(), 0
    for part in pieces:
        piece: bytes | memoryview = part
        while piece and not stream.eof:
            total += len(stream.decompress(piece, _PIECE))
            piece = stream.unconsumed_tail
    return total if stream.eof else 0


def _png_bytes(header: memoryview) -> int:
    """Bytes of all rows of a PNG, each with its filter's byte, before compression."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colour, interlaced = header[8], header[9], header[12]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-max(0, width - x) // step_x), -(-max(0, height - y) // step_y)
        total += rows * (1 + (columns * depth * _CHANNELS[colour] + 7) // 8) if columns else 0
    return total


def _jpeg(data: bytes) -> None:
    """The first image has its end, and no more scans than a camera or an optimiser writes."""
    at, scans = 2, 0
    while match := _MARKER.search(data, at):
        marker, at = match[1][0], match.end()
        if marker == _EOI:
            return
        scans += marker == _SOS
        if scans > _MOST_SCANS:  # each takes as long as a whole image
            raise ValueError(f"it has over {_MOST_SCANS} scans")
        if marker not in (0x01, 0xD8):
            at += int.from_bytes(data[at : at + 2], "big")
    raise ValueError("the file ends early")


def _gif(data: bytes) -> None:
    """Every block up to the trailer is there."""
    at = 13 + _colours(data, 10)
    while at < len(data):
        kind = data[at]
        if kind == 0x3B:
            return
        if kind == 0x2C:
            at = _after_blocks(data, at + 11 + _colours(data, at + 9))
        else:
            at = _after_blocks(data, at + 2) if kind == 0x21 else at + 1
    raise ValueError("the file ends early")


def _colours(data: bytes, at: int) -> int:
    """Bytes of the colour table that the flags at a position announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _dds(data: bytes) -> None:
    """Uncompressed pixels are as many as the header says."""
    height, width, pixel_format, bits = (int.from_bytes(data[at : at + 4], "little") for at in (12, 16, 80, 88))
    if pixel_format & 0x20040 and len(data) - 128 < width * height * bits // 8:  # luminance or RGB
        raise ValueError("its pixels end early")


_CHECKS: dict[str, Callable[[bytes], None]] = {"PNG": _png, "JPEG": _jpeg, "MPO": _jpeg, "GIF": _gif, "DDS": _dds}
