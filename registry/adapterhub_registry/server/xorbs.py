"""Xorbs: what clients send by Xet, chunk after chunk; read piece by piece, never more than a chunk unpacked.

Each chunk has 8 bytes before it: version 0, packed length (3 bytes, little-endian), scheme, length (3 bytes).
The scheme is 0 for bytes as they are, 1 for a frame of LZ4, 2 for one in which every fourth byte stands
together. What follows the chunks, from `XETBLOB` on, repeats what they say.
"""

from collections.abc import Iterator

from lz4.frame import LZ4FrameDecompressor  # pyright: ignore[reportMissingTypeStubs]

from adapterhub_registry.server.errors import XetFormatError

MAX_CHUNK = 128 << 10
MAX_CHUNKS = 8192
MAX_XORB = 64 << 20
"""Bytes of all chunks, unpacked."""
MAX_BODY = MAX_XORB + (1 << 20)
"""With what stands before and behind the chunks."""
HEADER = 8
FOOTER = b"XETBLOB"
PLAIN, LZ4, GROUPED = range(3)


class XorbReader:
    """Unpacks a xorb that comes in pieces.

    Attributes:
        sizes: Of the chunks so far.

    Example:
        >>> reader = XorbReader()
        >>> [bytes(chunk) for chunk in reader.feed(b"\\0\\3\\0\\0\\0\\3\\0\\0ink")], reader.sizes
        ([b'ink'], [3])
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self._held = bytearray()
        self._total = 0
        self._is_over = False
        self._frames = LZ4FrameDecompressor()

    def feed(self, piece: bytes | bytearray) -> Iterator[bytes]:
        """Yield the chunks that are whole with the next piece.

        Raises:
            XetFormatError: It is no xorb, or larger than one may be.
        """
        if self._is_over:
            return
        self._held += piece
        position = 0
        while len(self._held) - position >= HEADER:
            header = self._held[position : position + HEADER]
            if header.startswith(FOOTER):
                self._is_over = True
                self._held.clear()
                return
            packed, size = self._lengths(header)
            end = position + HEADER + packed
            if len(self._held) < end:
                break
            yield self._unpack(header[4], bytes(self._held[position + HEADER : end]), size)
            self.sizes.append(size)
            self._total += size
            position = end
        del self._held[:position]

    def finish(self) -> None:
        """Check that it ended with a whole chunk.

        Raises:
            XetFormatError: It did not.
        """
        if self._held:
            raise self._problem("it ends within")
        if not self.sizes:
            raise XetFormatError("xorb", "it has no chunks")

    def _lengths(self, header: bytearray) -> tuple[int, int]:
        """Return how long the next chunk is, packed and unpacked."""
        packed, size = (int.from_bytes(header[at : at + 3], "little") for at in (1, 5))
        if header[0] != 0:
            raise self._problem(f"version {header[0]} is unknown")
        if not 0 < size <= MAX_CHUNK or packed > 2 * MAX_CHUNK:
            raise self._problem(f"it would have {size:,} bytes; 1 to {MAX_CHUNK:,} are allowed")
        if len(self.sizes) >= MAX_CHUNKS or self._total + size > MAX_XORB:
            raise self._problem(f"a xorb has at most {MAX_CHUNKS:,} chunks and {MAX_XORB:,} bytes")
        return packed, size

    def _unpack(self, scheme: int, packed: bytes, size: int) -> bytes:
        if scheme == PLAIN:
            found = packed
        elif scheme in (LZ4, GROUPED):
            found = self._inflate(packed, size)
        else:
            raise self._problem(f"scheme {scheme} is unknown")
        if len(found) != size:
            raise self._problem(f"it has other than the {size:,} bytes that it says")
        return _ungroup(found) if scheme == GROUPED else found

    def _inflate(self, packed: bytes, size: int) -> bytes:
        """Unpack a frame; of one that holds too much, a byte too many."""
        self._frames.reset()
        try:
            found: bytes = self._frames.decompress(packed, max_length=size + 1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        except RuntimeError as exc:
            raise self._problem("it is no frame of LZ4") from exc
        if not self._frames.eof or self._frames.unused_data:  # pyright: ignore[reportUnknownMemberType]
            raise self._problem("its frame of LZ4 does not end where it does")
        return found  # pyright: ignore[reportUnknownVariableType]

    def _problem(self, reason: str) -> XetFormatError:
        return XetFormatError("xorb", f"chunk {len(self.sizes)}: {reason}")


def _ungroup(grouped: bytes) -> bytes:
    """Put bytes back that stood together by their place in groups of four."""
    found, position = bytearray(len(grouped)), 0
    for place in range(4):
        count = (len(grouped) - place + 3) // 4
        found[place::4] = grouped[position : position + count]
        position += count
    return bytes(found)
