#!/usr/bin/env -S python3 -B
"""Makes a PNG of a page smaller: at most 256 colours, and the best compression of zlib.

Usage: scripts/compress_png.py FROM TO

A page has few colours beside the shades of its letters' edges, so that the difference cannot be seen. It reads what
Chromium writes: 8 bits for each channel, not interlaced.
"""

import struct
import sys
import zlib
from collections import Counter

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {2: 3, 6: 4}
COLOURS = 256


def main():
    source, target = sys.argv[1:]
    with open(source, "rb") as file:
        width, height, rows = read(file.read())
    counts = Counter(colour for row in rows for colour in row)
    palette = [colour for colour, _ in counts.most_common(COLOURS)]
    index = {colour: nearest(palette, colour) for colour in counts}
    # Filters only help where neighbours are similar numbers, which indices are not.
    lines = b"".join(b"\0" + bytes(index[colour] for colour in row) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", b"".join(palette)), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    with open(target, "wb") as file:
        file.write(SIGNATURE + b"".join(chunk(kind, data) for kind, data in chunks))


def nearest(palette, colour):
    """The index of the colour in the palette that is most like this one."""
    distance = lambda other: sum((a - b) ** 2 for a, b in zip(other, colour))
    return min(range(len(palette)), key=lambda at: distance(palette[at]))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read(data):
    """The size, and the rows of colours as three bytes each. Transparency is dropped."""
    assert data.startswith(SIGNATURE), "this is not a PNG"
    packed, at = b"", len(SIGNATURE)
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IHDR":
            width, height, depth, colour_type, _, _, interlaced = struct.unpack(">IIBBBBB", content)
            assert depth == 8 and colour_type in CHANNELS and not interlaced, "another form of PNG"
        elif kind == b"IDAT":
            packed += content
    channels = CHANNELS[colour_type]
    lines, stride = zlib.decompress(packed), width * channels
    before, rows = bytearray(stride), []
    for start in range(0, height * (stride + 1), stride + 1):
        line = bytearray(lines[start + 1 : start + 1 + stride])
        unfilter(lines[start], line, before, channels)
        rows.append([bytes(line[x : x + 3]) for x in range(0, stride, channels)])
        before = line
    return width, height, rows


def unfilter(kind, line, before, channels):
    """Undoes the filter of one line in place. `before` is the line above."""
    for x, value in enumerate(line):
        left = line[x - channels] if x >= channels else 0
        corner = before[x - channels] if x >= channels else 0
        guess = (0, left, before[x], (left + before[x]) // 2, paeth(left, before[x], corner))[kind]
        line[x] = (value + guess) & 255


def paeth(left, above, corner):
    estimate = left + above - corner
    return min((left, above, corner), key=lambda value: abs(estimate - value))


if __name__ == "__main__":
    main()
