"""Spoken digits from eSpeak NG, and log-mel features against closed forms."""

import numpy as np
import pytest

from thalweg.data import Utterance, log_mel, synthesize
from thalweg.data.speech import mel, mel_filters
from thalweg.errors import UserError

RATE = 16_000
SAID = [
    Utterance("three one four", "en-us+f2"),
    Utterance("nine", "en+m3", rate=120),
    Utterance("nine", "en+m3", rate=240),
]


def test_the_same_list_has_the_same_samples_and_another_seed_need_not() -> None:
    (first, rate), (again, _) = synthesize(SAID, seed=3), synthesize(SAID, seed=3)
    assert rate == 22_050
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(one.dtype == np.float32 and 0.1 < np.abs(one).max() <= 1 for one in first)
    assert len(first[1]) > 1.3 * len(first[2])  # half as many words a minute; the pause after it stays
    assert not np.array_equal(first[0], synthesize(SAID, seed=4)[0][0])  # a voice of random breath


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Utterance(" "), "empty"),
        (Utterance("one\0two"), "NUL"),
        (Utterance("one", rate=1_000), "rate 1000"),
        (Utterance("one", "en-us+nobody"), "no variant 'nobody'"),
        (Utterance("one", "xx-none"), "no voice 'xx-none'"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_place(one: Utterance, told: str) -> None:
    with pytest.raises(UserError, match=told) as refused:
        synthesize([SAID[0], one])
    assert "utterance 1" in str(refused.value)


def test_filters_are_triangles_that_add_up_to_one() -> None:
    filters = mel_filters(30, RATE, 1_024)
    at = mel(np.fft.rfftfreq(1_024, 1 / RATE))
    centres = np.linspace(mel(60.0), mel(RATE / 2), 32)[1:-1]
    inside = (at >= centres[0]) & (at <= centres[-1])
    np.testing.assert_allclose(filters[:, inside].sum(axis=0), 1, atol=1e-12)  # rounding of some sums
    assert (filters >= 0).all()
    # 60 Hz and half the rate are the outermost feet, so nothing lies beyond them
    assert not filters[:, at < mel(60.0)].any()


@pytest.mark.parametrize("hertz", [300.0, 1_000.0, 4_000.0])
def test_a_tone_is_loudest_in_its_own_band(hertz: float) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE)
    found = log_mel(tone, RATE, bands=30)
    centres = np.linspace(mel(60.0), mel(RATE / 2), 32)[1:-1]
    assert set(found.argmax(axis=1).tolist()) == {int(np.argmin(np.abs(centres - mel(hertz))))}
    # twice the amplitude is four times the power, where the floor of 1e-6 is nothing
    loud = log_mel(2 * tone, RATE, bands=30)
    np.testing.assert_allclose(loud.max(axis=1) - found.max(axis=1), np.log(4), atol=1e-5)


def test_the_power_of_a_frame_is_its_energy_and_a_hop_later_it_is_the_next_frame() -> None:
    noise = np.random.default_rng(0).normal(size=4_000)
    found = log_mel(noise, RATE, bands=20, window=0.025, hop=0.01)
    np.testing.assert_array_equal(found[1:], log_mel(noise[160:], RATE, bands=20))
    # by hand, in one frame: the transform written out as a sum
    frame = noise[:400] * np.hanning(400)
    k, n = np.arange(201)[:, None], np.arange(400)
    power = np.abs((frame * np.exp(-2j * np.pi * k * n / 400)).sum(axis=1)) ** 2 / 400
    # Parseval: all frequencies but the first and the last stand for two
    np.testing.assert_allclose(2 * power.sum() - power[0] - power[-1], (frame**2).sum(), rtol=1e-10)
    expected = np.log(mel_filters(20, RATE, 400) @ power + 1e-6)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)  # single precision


def test_features_of_what_is_no_sound_are_refused() -> None:
    with pytest.raises(UserError, match="a frame has 400"):
        log_mel(np.zeros(10), RATE)
    with pytest.raises(UserError, match="finite"):
        log_mel(np.full(1_000, np.nan), RATE)
    with pytest.raises(UserError, match="0 bands"):
        log_mel(np.zeros(1_000), RATE, bands=0)
