"""Feature spaces that are made of slices or of a run: fitted to training slices alone, kept by content, named for what they are."""

import dataclasses

import numpy as np
import pytest
import torch
from test_evaluate import dataset_of

from stylegan.config import make_config
from stylegan.run import train_run
from stylegan.scores import encoder as own
from stylegan.scores import features as module
from stylegan.scores import spaces
from stylegan.scores.features import distance_name, features


@pytest.fixture(scope="module")
def heads():
    return dataset_of(people=30, levels=8, size=32)


@pytest.fixture(scope="module")
def network(heads):
    return own._train(heads.split("train"), 150, 0).eval()


def test_pixel_pca_is_the_pca_of_the_training_pixels(heads):
    train, test = heads.split("train"), heads.split("test")
    space = spaces.find_space("pixel-pca", train=train)
    found = features(test.images, space)
    x = train.images.reshape(len(train), -1).astype(float)
    centred = test.images.reshape(len(test), -1) - x.mean(axis=0)
    expected = centred @ np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:5].T
    scale = np.linalg.norm(expected) / np.linalg.norm(found[:, :5])
    assert found.shape == (len(test), 64) and np.abs(found[:, :5]) == pytest.approx(
        np.abs(expected) / scale, rel=0.02, abs=0.05
    )
    assert features(train.images, space).var(axis=0).mean() == pytest.approx(1, rel=0.1)


def test_own_encoder_reads_levels_blur_and_noise_of_people_it_never_saw(heads, network):
    judged = own.judged(network, heads.split("test"))
    assert judged["level"] > 0.7 and judged["blur"] > 0.5 and judged["noise"] > 0.7


def test_own_encoder_does_without_levels(heads):
    train = heads.split("train")
    network = own._train(dataclasses.replace(train, levels=np.full(len(train), -1)), 3, 0)
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_the_encoder_is_kept_by_the_content_of_its_slices(heads, tmp_path, monkeypatch):
    train = heads.split("train")
    first, key = own.trained_encoder(train, steps=2, cache_dir=tmp_path)
    monkeypatch.setattr(own, "_train", lambda *_: pytest.fail("trained again"))
    again, same = own.trained_encoder(train, steps=2, cache_dir=tmp_path)
    assert key == same and all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        own.trained_encoder(train.select(np.arange(50)), steps=2, cache_dir=tmp_path)


def test_two_spaces_share_no_cache(heads, tmp_path):
    few = heads.images[:6]
    a, b = (spaces.find_space("pixel-pca", train=heads.split(split)) for split in ("train", "val"))
    kept = [features(few, space, cache_dir=tmp_path) for space in (a, b)]
    assert len(list(tmp_path.iterdir())) == 2 and not np.allclose(*(np.abs(x[:, :3]) for x in kept))
    assert np.array_equal(features(few, a, cache_dir=tmp_path), kept[0])


def test_discriminator_space_is_what_d_sees_before_its_last_layers(heads, tmp_path):
    slices = dataset_of()
    train_run(make_config("smoke", total_kimg=0.016, kid_ticks=0), _folder(slices, tmp_path), tmp_path / "run")
    space = spaces.find_space("discriminator", run=tmp_path / "run")
    D, config, _ = spaces.load_discriminator(tmp_path / "run")
    found = features(slices.images[:5], space)
    x = D.blocks(D.from_rgb(slices.tensor(np.arange(5))))
    assert found == pytest.approx(x.mean(dim=(2, 3)).numpy(), abs=1e-4) and found.shape == (5, config.channels(4))


def _folder(slices, place):
    from PIL import Image

    for image, subject, level in zip(slices.images, slices.subjects, slices.levels, strict=True):
        path = place / "slices" / "control" / f"{subject}_slice_{level}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return place / "slices"


def test_what_is_missing_is_said(heads, tmp_path):
    with pytest.raises(ValueError, match="no feature space 'vgg'; choose one of efficientnet-lite0, inception, pixel-pca"):
        spaces.find_space("vgg")
    for name in ("pixel-pca", "own-encoder"):
        with pytest.raises(ValueError, match="fitted to training slices"):
            spaces.find_space(name)
    with pytest.raises(ValueError, match="that of a run"):
        spaces.find_space("discriminator")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        spaces.find_space("discriminator", run=tmp_path)


# --- Inception ------------------------------------------------------------------------------------------------------------


def test_without_the_official_weights_there_is_no_fid(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("STYLEGAN_INCEPTION", raising=False)
    with pytest.raises(ValueError, match=r"official Inception is not here.*FD of efficientnet-lite0, not FID"):
        features(np.zeros((1, 16, 16), np.uint8), "inception")
    other = tmp_path / "mine.pth"
    torch.save({}, other)
    monkeypatch.setenv("STYLEGAN_INCEPTION", str(other))
    with pytest.raises(ValueError, match="not the official Inception"):
        features(np.zeros((1, 16, 16), np.uint8), "inception")
    assert distance_name("inception") == "FID" and distance_name("efficientnet-lite0") == "FD"


def test_inception_gives_what_torch_fidelity_gives(tmp_path, monkeypatch):
    """With weights of chance: the path from pictures to features is the same with the real ones."""
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {}, raising=False)
    monkeypatch.setattr(module, "INCEPTION_SHA256", "")
    module._space.cache_clear()
    torch.manual_seed(0)
    weights = _random_inception(fidelity)
    torch.save(weights, tmp_path / "random.pth")
    monkeypatch.setenv("STYLEGAN_INCEPTION", str(tmp_path / "random.pth"))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    found = features(pictures, "inception")
    oracle = fidelity.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(tmp_path / "random.pth"))
    expected = oracle(torch.from_numpy(pictures)[:, None].repeat(1, 3, 1, 1))[0]
    module._space.cache_clear()
    assert found.shape == (2, 2048) and found == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def _random_inception(fidelity):
    class Bare(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            return None

    path = fidelity.__file__  # any file: what is read from it is thrown away
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        return Bare("x", ["2048"], feature_extractor_weights_path=path).state_dict()
