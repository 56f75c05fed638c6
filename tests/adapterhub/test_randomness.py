"""Random numbers depend on seed and key alone."""

import hashlib

import numpy as np

from adapterhub.randomness import keyed_generator, keyed_normal


def test_the_key_is_the_hash_of_seed_and_purpose() -> None:
    digest = hashlib.sha256(b'["philox-sha256-v1",7,"noise",3]').digest()
    reference = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    assert keyed_generator(7, "noise", 3).integers(2**62) == reference.integers(2**62)


def test_draws_do_not_depend_on_other_draws() -> None:
    alone = keyed_normal((4, 5), 7, "noise", 3)
    keyed_normal((9,), 7, "noise", 2)
    assert (keyed_normal((4, 5), 7, "noise", 3) == alone).all()


def test_keys_are_told_apart() -> None:
    keys = [("noise", 1, 23), ("noise", 12, 3), ("noise", "1", 23), ("noise1", 23), ("order", 1, 23)]
    drawn = {int(keyed_generator(7, *key).integers(2**62)) for key in keys}
    drawn |= {int(keyed_generator(8, *keys[0]).integers(2**62))}
    assert len(drawn) == 6


def test_noise_is_standard_normal() -> None:
    values = keyed_normal((200, 500), 1, "check")
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.std()) - 1) < 0.01
