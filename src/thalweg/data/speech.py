"""Speech from eSpeak NG (the user's own copy, never shipped here), and what a network hears of it: log-mel features."""

import ctypes
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.data.shipped import shipped_file
from thalweg.errors import UserError

# of eSpeak's speak_lib.h
SYNCHRONOUS, DO_NOT_EXIT = 2, 0x8000
RATE, PITCH = 1, 3
CHARACTERS, UTF8 = 1, 1

HEARD = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Utterance:
    """What is said, and how.

    Args:
        text: not empty.
        voice: a language of eSpeak's, or with a variant: "en-us", "en-gb-scotland+f2".
        rate: words a minute, 80 to 450.
        pitch: 0 to 99.
    """

    text: str
    voice: str = "en-us"
    rate: int = 175
    pitch: int = 50


def synthesize(utterances: Sequence[Utterance], seed: int = 0) -> tuple[list[np.ndarray], int]:
    """Let eSpeak NG speak, one utterance after another: the same list and seed, the same samples.

    eSpeak keeps its state in the library (its flutter goes on from one utterance to the next), so each call loads a
    copy of its own; within a list what comes before changes the last bits of what comes after.

    Args:
        utterances: to be said.
        seed: of what is random in some voices.
    Returns:
        samples within −1 … 1 of each, (n,) float32, and their number a second.
    Raises:
        UserError: the package espeakng-loader is not installed, or its library is not for this machine; an empty text,
            a rate or pitch out of range, an unknown voice; with the utterance's place in the list.
    """
    library = shipped_file("espeakng-loader", "espeakng_loader/libespeak-ng.so")
    for place, one in enumerate(utterances):
        _check(one, place, library.parent)
    speaker, rate = _loaded(library)
    heard: list[np.ndarray] = []

    @HEARD
    def hear(samples: Any, count: int, events: Any) -> int:
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    speaker.espeak_SetSynthCallback(hear)
    speaker.espeak_ng_SetRandSeed(ctypes.c_long(seed))
    found = []
    for place, one in enumerate(utterances):
        if speaker.espeak_SetVoiceByName(one.voice.encode()):
            raise UserError(f"eSpeak has no voice '{one.voice}'", where=f"utterance {place}")
        speaker.espeak_SetParameter(RATE, one.rate, 0)
        speaker.espeak_SetParameter(PITCH, one.pitch, 0)
        heard.clear()
        text = one.text.encode() + b"\0"
        speaker.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, CHARACTERS, 0, UTF8, None, None)
        if not heard:
            raise UserError("eSpeak said nothing", where=f"utterance {place}", remedy="Give it words to say.")
        found.append((np.concatenate(heard) / 32_768).astype(np.float32))
    speaker.espeak_Terminate()
    return found, rate


def _loaded(library: Path) -> tuple[ctypes.CDLL, int]:
    with tempfile.TemporaryDirectory() as folder:  # a loaded library outlives its file
        copy = shutil.copy(library, folder)
        try:
            speaker = ctypes.CDLL(str(copy))
        except OSError as error:
            raise UserError(
                f"eSpeak NG cannot be loaded here: {error}",
                where=str(library),
                remedy="espeakng-loader has wheels for Linux of x86-64 and ARM64 that thalweg can read.",
            ) from error
    rate = speaker.espeak_Initialize(SYNCHRONOUS, 0, str(library.parent).encode(), DO_NOT_EXIT)
    if rate <= 0:
        raise UserError("eSpeak NG cannot start", where=str(library), remedy="Install espeakng-loader anew.")
    return speaker, int(rate)


def _check(one: Utterance, place: int, folder: Path) -> None:
    where = f"utterance {place}"
    if not one.text.strip() or "\0" in one.text:
        raise UserError("a text is empty, or holds a NUL", where=where)
    if not 80 <= one.rate <= 450 or not 0 <= one.pitch <= 99:
        raise UserError(
            f"rate {one.rate}, pitch {one.pitch}", where=where, remedy="A rate within 80 … 450, a pitch within 0 … 99."
        )
    _, _, variant = one.voice.partition("+")
    known = {file.name for file in (folder / "espeak-ng-data/voices/!v").iterdir()}
    if "+" in one.voice and variant not in known:  # eSpeak would speak on without it
        raise UserError(
            f"eSpeak has no variant '{variant}'", where=where, remedy="Such as en-us+m3 or en-gb-scotland+f2."
        )


def mel(frequency: np.ndarray | float) -> np.ndarray:
    """Hertz to mel: 2595·log₁₀(1 + f/700) (O'Shaughnessy, 1987), even steps of which sound evenly apart.

    >>> round(float(mel(1000.0)))
    1000
    """
    return 2595 * np.log10(1 + np.asarray(frequency) / 700)


def mel_filters(bands: int, rate: int, window: int, low: float = 60.0) -> np.ndarray:
    """Triangles on the mel scale, each rising from its lower neighbour's centre and falling to its upper one's.

    Args:
        bands: number of them.
        rate: samples a second.
        window: samples of a frame.
        low: where the first begins, Hz; the last ends at rate/2.
    Returns:
        weights of the window//2 + 1 frequencies, (bands, window//2 + 1). Between the first centre and the last they
        add up to 1.
    """
    ends = np.linspace(mel(low), mel(rate / 2), bands + 2)
    at = mel(np.fft.rfftfreq(window, 1 / rate))
    rising = (at - ends[:-2, None]) / (ends[1:-1] - ends[:-2])[:, None]
    falling = (ends[2:, None] - at) / (ends[2:] - ends[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def log_mel(
    samples: np.ndarray, rate: int, *, bands: int = 40, window: float = 0.025, hop: float = 0.01, floor: float = 1e-6
) -> np.ndarray:
    """Logarithm of the power in mel bands, frame by frame (Davis and Mermelstein, 1980, before their cosines).

    Args:
        samples: shape (n,), finite.
        rate: samples a second.
        bands: number of bands.
        window, hop: length of a frame (under Hann's window) and from one to the next, seconds.
        floor: added to the power, so that silence has a logarithm.
    Returns:
        shape (frames, bands), float32.
    Raises:
        UserError: samples that are not finite or not one series, fewer than a frame; bands, window or hop out of range.

    >>> log_mel(np.zeros(16_000), 16_000, bands=20).shape
    (98, 20)
    """
    size, step = round(window * rate), round(hop * rate)
    if bands < 1 or size < 2 or step < 1 or not floor > 0:
        raise UserError(f"{bands} bands, a window of {window} s, a hop of {hop} s", where="log_mel")
    samples = np.asarray(samples, np.float64)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise UserError("samples must be one series of finite numbers", where="log_mel")
    if len(samples) < size:
        raise UserError(f"{len(samples)} samples, but a frame has {size}", where="log_mel")
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::step]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2 / size
    return np.log(power @ mel_filters(bands, rate, size).T + floor).astype(np.float32)
