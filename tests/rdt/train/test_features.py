"""Run: pytest tests/rdt/train/test_features.py"""

import pytest
import torch

from rdt.encoders.condition import ConditionConfig, ConditionEncoder
from rdt.train import features
from rdt.train.features import cached_features
from tests.published import SIGLIP_TOKENS, make_siglip

CPU = torch.device("cpu")


@pytest.fixture
def encoder(tmp_path) -> ConditionEncoder:
    return make_encoder(tmp_path / "siglip")


def make_encoder(folder, seed: int = 0) -> ConditionEncoder:
    config = ConditionConfig(
        vision="siglip", vision_path=str(make_siglip(folder, seed=seed)), cameras=("external", "left_wrist")
    )
    return ConditionEncoder(
        config, lang_token_dim=8, max_lang_tokens=6, img_token_dim=32, img_cond_len=2 * SIGLIP_TOKENS
    )


def test_frames_of_a_store_are_encoded_once_and_never_again(encoder, store, tmp_path, monkeypatch):
    episode = store[0]
    asked = torch.stack([torch.from_numpy(encoder.collator.square(episode.images["external"][i])) for i in (0, 7)])
    expected = encoder.encode_images(asked)
    cache = cached_features(encoder, [store], tmp_path / "features", CPU, lambda _: None)
    assert len(cache) == sum(store.episode_lengths)
    encoder.feature_cache = cached_features(encoder, [], tmp_path / "features", CPU)
    monkeypatch.setattr(type(encoder.vision), "forward", None)  # the tower is not asked
    torch.testing.assert_close(encoder.encode_images(asked), expected)


def test_features_of_another_encoder_are_worked_out_again(encoder, store, tmp_path):
    cached_features(encoder, [store], tmp_path / "features", CPU, lambda _: None)
    other = make_encoder(tmp_path / "other", seed=1)
    picture = torch.from_numpy(other.collator.square(store[0].images["external"][0]))[None]
    expected = other.encode_images(picture)
    other.feature_cache = cached_features(other, [store], tmp_path / "features", CPU, lambda _: None)
    torch.testing.assert_close(other.encode_images(picture), expected)


def test_too_little_room_is_said_before_the_first_picture(encoder, store, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "free_bytes", lambda folder: 1000)
    with pytest.raises(ValueError, match=r"do not fit into .* set data\.cache_features to false"):
        cached_features(encoder, [store], tmp_path / "features", CPU)
