"""Run: pytest tests/rdt/encoders/test_feature_cache.py"""

import copy
import errno

import numpy as np
import pytest
import torch

from data_pipeline.atomic import WriteError
from rdt.encoders.feature_cache import FeatureCache, picture_keys, write_features

CPU = torch.device("cpu")
SIGNATURE = np.ones(3, np.float32)


class Encoder:
    """Stands for a frozen one: two tokens of width three, and a count of the pictures that it looked at."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.weights = torch.randn(8 * 8 * 3, 6, generator=torch.Generator().manual_seed(0))
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return (images.flatten(1).float() @ self.weights).view(-1, 2, 3).to(self.dtype)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_seen_is_not_encoded_again(pictures, tmp_path, dtype):
    encoder = Encoder(dtype)  # of another device, where it is bfloat16
    write_features(tmp_path / "features", [*pictures, *pictures[:5]], encoder, CPU, SIGNATURE)
    assert encoder.seen == len(pictures)
    cache = FeatureCache(tmp_path / "features")
    asked = torch.from_numpy(pictures[[3, 30, 3, 0]])
    found = cache(asked, encoder)
    assert encoder.seen == len(cache) == len(pictures)
    assert found.dtype == torch.float32  # as the encoder here would give them
    torch.testing.assert_close(found, encoder(asked).float())


def test_a_picture_that_differs_in_one_pixel_is_another(pictures, tmp_path):
    write_features(tmp_path / "features", pictures, Encoder(), CPU, SIGNATURE)
    cache, encoder = FeatureCache(tmp_path / "features"), Encoder()
    asked = torch.from_numpy(pictures[:3])
    asked[1, 4, 4, 1] += 1
    torch.testing.assert_close(cache(asked, encoder), Encoder()(asked))
    assert encoder.seen == 1


def test_keys_tell_pictures_apart_and_do_not_depend_on_the_company(pictures):
    changed = np.repeat(pictures[:1], 256, axis=0)
    changed[:, 0, 0, 0] = np.arange(256)
    keys = picture_keys(torch.from_numpy(np.concatenate([pictures, changed])))
    assert len({tuple(key) for key in keys.tolist()}) == len(pictures) + 256 - 1  # one of them is the first itself
    assert torch.equal(keys[5:6], picture_keys(torch.from_numpy(pictures[5:6])))


def test_copies_of_an_encoder_share_the_cache(pictures, tmp_path):
    write_features(tmp_path / "features", pictures, Encoder(), CPU, SIGNATURE)
    cache = FeatureCache(tmp_path / "features")
    assert copy.deepcopy(cache) is cache


def test_a_cut_file_is_named(pictures, tmp_path):
    write_features(tmp_path / "features", pictures, Encoder(), CPU, SIGNATURE)
    file = tmp_path / "features" / "features.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"features\.bin should hold 888 bytes"):
        FeatureCache(tmp_path / "features")


def test_a_full_disk_leaves_nothing(pictures, tmp_path):
    def full():
        yield pictures[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match="the disk is full"):
        write_features(tmp_path / "features", full(), Encoder(), CPU, SIGNATURE)
    assert not list(tmp_path.iterdir())
