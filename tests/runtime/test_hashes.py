import hashlib

import pytest

from pnseg_runtime import hashes
from pnseg_runtime.hashes import sha256_of, take_in


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 24])
def test_a_file_has_the_hash_of_its_bytes_however_many_blocks_it_takes(size, tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "_BLOCK", 8)
    content = bytes(range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(b"before")
    take_in(digest, tmp_path / "file")
    assert digest.hexdigest() == hashlib.sha256(b"before" + content).hexdigest()
