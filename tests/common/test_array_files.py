"""Arrays in files: any flipped bit is seen, or changes nothing."""

import random

import numpy as np
import pytest

from spatialvla.common.array_files import read_arrays, write_arrays

ARRAYS = {
    "a": np.arange(20),
    "b": np.array(["one", "naïve"]),
    "c": np.zeros((0, 2), np.float32),
    "d": np.asarray(3),
}


@pytest.mark.parametrize("compress", [False, True])
def test_flipped_bits_are_seen_or_change_nothing(tmp_path, compress):
    path, draw = tmp_path / "a.npz", random.Random(0)
    write_arrays(path, ARRAYS, compress)
    whole, refused = path.read_bytes(), 0
    for position in range(len(whole)):
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << draw.randrange(8)]) + whole[position + 1 :]
        )
        try:
            found = read_arrays(path)
        except ValueError:
            refused += 1
            continue
        for name, array in ARRAYS.items():
            if name in found:  # a name of its own may be damaged, too: its array is then missing
                np.testing.assert_array_equal(found[name], array)
                assert found[name].dtype == array.dtype
    assert refused > len(whole) / 2


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"\x93NUMPY", b"x" * 1000])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    for path in (tmp_path / "a.npz", tmp_path / "none.npz", tmp_path):
        with pytest.raises(ValueError, match="cannot be read"):
            read_arrays(path)


def test_half_of_a_file(tmp_path):
    write_arrays(tmp_path / "a.npz", ARRAYS)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match="cannot be read"):
        read_arrays(tmp_path / "a.npz")
