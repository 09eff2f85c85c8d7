"""Xet storage in a folder, where the Hub keeps large files, with the parts that the Hub reads.

Files are cut into chunks, and "shards" list the chunks of each file; a file is identified by a hash of its chunks. The
shard also holds its SHA-256, by which a commit names it, so that the Hub can map one to the other.
"""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import hf_xet

# The format of shards (xet-core, 2025): the header, and the records of files, of segments and of their properties.
HEADER_BYTES = RECORD_BYTES = 48
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30
END = b"\xff" * 32


class XetStorage:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.url = f"local://{folder}"

    def files(self):
        """{SHA-256: (Xet hash, bytes)} of all files that have been uploaded."""
        shards = sorted(self.folder.glob("xet/xorbs/shards/*.mdb"))
        return {sha256: file for shard in shards for sha256, file in _files_of(shard.read_bytes())}

    def read(self, sha256):
        """The content of a file; None if it is not there."""
        found = self.files().get(sha256)
        if found is None:
            return None
        with TemporaryDirectory() as folder:
            place = Path(folder) / "file"
            hf_xet.download_files([hf_xet.PyXetDownloadInfo(str(place), *found)], self.url, None, None, None)
            return place.read_bytes()


def _files_of(shard):
    at = HEADER_BYTES
    while shard[at : at + 32] != END:
        xet_hash, (flags, count) = shard[at : at + 32], struct.unpack_from("<II", shard, at + 32)
        segments = at + RECORD_BYTES
        size = sum(struct.unpack_from("<I", shard, segments + i * RECORD_BYTES + 36)[0] for i in range(count))
        at = segments + count * RECORD_BYTES * (2 if flags & HAS_VERIFICATION else 1)
        if flags & HAS_SHA256:
            yield _hex(shard[at : at + 32]), (_hex(xet_hash), size)
            at += RECORD_BYTES


def _hex(hash):
    """Four numbers of eight bytes, the last byte of each first."""
    return b"".join(hash[i : i + 8][::-1] for i in range(0, 32, 8)).hex()
