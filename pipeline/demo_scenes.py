"""What the classes of the demo's synthetic AudioSet sound like and look like.

Nine of AudioSet's classes, each with a signal that honestly deserves its name: three that only sound, three that only
show (a firework too far to hear, a train behind glass) and three that do both.

A sound is a function (rng, seconds float64 [n], samples per second) -> float32 [n], its level left to the caller. A
picture is a factory (rng, height, width) -> painter, and a painter (frame float32 [H, W, 3] in 0..255, second) draws an
instant into the frame, so that several things can be in view at once. Whatever tells a class is kept inside the centre
square, which is all that the clip encoder sees; pictures must be at least 1.6 times as wide as high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Painter = Callable[[np.ndarray, float], None]
Sound = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]
Picture = Callable[[np.random.Generator, int, int], Painter]


# --- sounds ----------------------------------------------------------------------------------------------------------


def room_tone(rng: np.random.Generator, seconds: np.ndarray, rate: int) -> np.ndarray:
    """Noise whose spectrum falls with a random slope; every clip has it, so it tells no class."""
    slope = rng.uniform(0.6, 1.4)
    return shaped_noise(rng, len(seconds), rate, lambda hertz: (hertz + 30.0) ** -slope)


def shaped_noise(
    rng: np.random.Generator, samples: int, rate: int, gain: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Gaussian noise, float32 [samples] of unit RMS, whose amplitude spectrum is `gain`, a function of Hz."""
    spectrum = np.fft.rfft(rng.standard_normal(samples, dtype=np.float32))
    noise = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(samples, 1.0 / rate)).astype(np.float32), samples)
    return noise / noise.std()


def sprinkle(rng: np.random.Generator, seconds: np.ndarray, per_second: float, kernels: np.ndarray) -> np.ndarray:
    """Short sounds, the rows of kernels [K, length], dropped at random times and loudness; float32 [n]."""
    samples, length = len(seconds), kernels.shape[1]
    count = max(1, int(per_second * (seconds[-1] - seconds[0])))
    starts = rng.integers(0, max(1, samples - length), count)
    loudness = rng.lognormal(0.0, 0.6, count).astype(np.float32)
    out = np.zeros(samples + length, np.float32)
    for start, kernel, gain in zip(starts, rng.integers(0, len(kernels), count), loudness, strict=True):
        out[start : start + length] += gain * kernels[kernel]
    return out[:samples]


def sine_wave(rng: np.random.Generator, seconds: np.ndarray, rate: int) -> np.ndarray:
    """One steady tone, 300–800 Hz."""
    return np.sin(2 * np.pi * rng.uniform(300, 800) * seconds).astype(np.float32)


def beeps(rng: np.random.Generator, seconds: np.ndarray, rate: int) -> np.ndarray:
    """Short tones of 1500–2300 Hz with a third harmonic, two to five a second."""
    phase = 2 * np.pi * rng.uniform(1500, 2300) * seconds
    tone = np.sin(phase) + np.sin(3 * phase) / 3
    position = (seconds * rng.uniform(2.0, 5.0)) % 1.0
    duty = rng.uniform(0.35, 0.55)
    return (tone * np.clip(np.minimum(position, duty - position) * 60, 0, 1)).astype(np.float32)


def white_noise(rng: np.random.Generator, seconds: np.ndarray, rate: int) -> np.ndarray:
    """Equal power at every frequency."""
    return rng.standard_normal(len(seconds), dtype=np.float32)


def siren(rng: np.random.Generator, seconds: np.ndarray, rate: int) -> np.ndarray:
    """A wail that glides between about 550 and 1400 Hz every one and a half to four seconds, with overtones."""
    low, high, period = rng.uniform(500, 650), rng.uniform(1200, 1500), rng.uniform(1.5, 4.0)
    glide = 0.5 - 0.5 * np.cos(2 * np.pi * (seconds / period + rng.uniform()))
    phase = 2 * np.pi * np.cumsum(low * (high / low) ** glide) / rate
    return (np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase)).astype(np.float32)


def fire_crackle(rng: np.random.Generator, seconds: np.ndarray, rate: int) -> np.ndarray:
    """Dry snaps of a few milliseconds over a low roar."""
    length = int(0.012 * rate)
    decay = np.exp(-np.arange(length, dtype=np.float32) / (rng.uniform(0.001, 0.002) * rate))
    snaps = sprinkle(rng, seconds, rng.uniform(14, 30), rng.standard_normal((16, length), dtype=np.float32) * decay)
    roar = shaped_noise(rng, len(seconds), rate, lambda hertz: np.exp(-hertz / 180.0))
    return 6 * snaps + 0.6 * roar


def rain(rng: np.random.Generator, seconds: np.ndarray, rate: int) -> np.ndarray:
    """A hiss between 2 and 7 kHz that swells slowly, with drops that ring."""
    centre, width = rng.uniform(3800, 5000), rng.uniform(900, 1400)
    hiss = shaped_noise(rng, len(seconds), rate, lambda hertz: np.exp(-0.5 * ((hertz - centre) / width) ** 2))
    hiss *= 1 + 0.3 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.4) * seconds + rng.uniform())).astype(np.float32)
    time = np.arange(int(0.02 * rate), dtype=np.float32) / rate
    drops = np.sin(2 * np.pi * rng.uniform(2200, 5500, (16, 1)) * time) * np.exp(-time / 0.004)
    return hiss + 1.5 * sprinkle(rng, seconds, rng.uniform(40, 90), drops.astype(np.float32))


# --- pictures --------------------------------------------------------------------------------------------------------


def backdrop(rng: np.random.Generator, height: int, width: int) -> Painter:
    """Soft shapes in dull random colours that a slow camera pans over; every clip has it, so it tells no class."""
    tall, wide = height + 32, width + 64
    y, x = np.mgrid[0:tall, 0:wide].astype(np.float32) / height
    view = np.full((tall, wide, 3), rng.uniform(70, 150, 3), np.float32)
    for _ in range(4):
        across, down, phase = rng.uniform(-5, 5), rng.uniform(-5, 5), rng.uniform(0, 2 * np.pi)
        view += np.cos(across * x + down * y + phase)[..., None] * rng.uniform(-18, 18, 3).astype(np.float32)
    view += rng.normal(0, 2.5, (tall, wide, 1)).astype(np.float32)
    speed, start = rng.uniform(0.2, 0.8), rng.uniform(0, 2 * np.pi)

    def paint(frame: np.ndarray, second: float) -> None:
        top = round(16 + 15 * np.sin(speed * second + start))
        left = round(32 + 31 * np.cos(0.7 * speed * second + start))
        frame[:] = view[top : top + height, left : left + width]

    return paint


def police_lights(rng: np.random.Generator, height: int, width: int) -> Painter:
    """A dark car roof with a red and a blue lamp that flash by turns and tint what is around."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    row, column = height * rng.uniform(0.3, 0.5), width / 2 + height * rng.uniform(-0.1, 0.1)
    reach, gap, rate = height * rng.uniform(0.16, 0.24), height * 0.18, rng.uniform(2.0, 4.0)
    lamps = []
    for side, colour in ((-1, (255, 25, 35)), (1, (30, 60, 255))):
        distance = (x - column - side * gap) ** 2 + (y - row) ** 2
        glow = np.exp(-distance / (2 * reach**2))[..., None]
        lamps.append((np.minimum(1, glow * 1.6), np.array(colour, np.float32)))
    roof = (slice(int(row + reach * 0.5), int(row + reach)), slice(int(column - 1.9 * gap), int(column + 1.9 * gap)))

    def paint(frame: np.ndarray, second: float) -> None:
        frame *= 0.75
        frame[roof] = 20.0
        glow, colour = lamps[int(second * rate * 2) % 2]
        frame += glow * (colour - frame)

    return paint


def flames(rng: np.random.Generator, height: int, width: int) -> Painter:
    """Yellow to red tongues that flicker upwards from the lower edge."""
    tall = round(height * rng.uniform(0.5, 0.65))
    half = round(height * rng.uniform(0.3, 0.42))
    middle = width // 2 + round(height * rng.uniform(-0.12, 0.12))
    columns = slice(middle - half, middle + half)
    y, x = np.mgrid[0:tall, 0 : 2 * half].astype(np.float32)
    rising = 1 - y / tall
    body = 1.25 * np.sin(np.pi * (x + 0.5) / (2 * half)) ** 0.7
    waves = [(rng.uniform(0.08, 0.35), rng.uniform(0.06, 0.2), rng.uniform(6, 16), rng.uniform(0, 6)) for _ in range(4)]

    def paint(frame: np.ndarray, second: float) -> None:
        flicker = sum(np.sin(a * x + b * y + c * second + d) for a, b, c, d in waves) / 4
        heat = np.clip(1.6 * (body * (0.8 + 0.5 * flicker) - rising), 0, 1)[..., None]
        colour = np.concatenate((255 * np.minimum(1, 0.5 + heat), 235 * heat, 110 * heat**3), axis=2)
        region = frame[height - tall :, columns]
        region += np.minimum(1, 2.5 * heat) * (colour - region)

    return paint


def rain_streaks(rng: np.random.Generator, height: int, width: int) -> Painter:
    """Pale streaks that fall fast through a darker, greyer scene."""
    strength = np.zeros((height, width), np.float32)
    for column, row, length in zip(
        rng.integers(0, width, width), rng.integers(0, height, width), rng.integers(10, 26, width), strict=True
    ):
        strength[(row + np.arange(length)) % height, column] = rng.uniform(0.4, 0.9)
    falling = np.concatenate((strength, strength))[..., None]
    speed = height * rng.uniform(2.0, 3.5)

    def paint(frame: np.ndarray, second: float) -> None:
        frame *= 0.6
        frame += 30.0
        top = height - int(speed * second) % height
        frame += falling[top : top + height] * (235.0 - frame)

    return paint


def fireworks(rng: np.random.Generator, height: int, width: int) -> Painter:
    """Bursts of coloured sparks over a night sky."""
    starts = np.arange(-1.0, 10.0, rng.uniform(0.3, 0.45))
    angle, pace = rng.uniform(0, 2 * np.pi, (len(starts), 110)), rng.uniform(0.12, 0.4, (len(starts), 110)) * height
    down, across = np.sin(angle) * pace, np.cos(angle) * pace
    rows = height * rng.uniform(0.25, 0.6, (len(starts), 1))
    columns = width / 2 + height * rng.uniform(-0.3, 0.3, (len(starts), 1))
    colours = np.stack((np.full(len(starts), 255.0), *rng.uniform((60, 20), (230, 120), (len(starts), 2)).T), axis=1)
    colours = rng.permuted(colours, axis=1)[:, None]

    def paint(frame: np.ndarray, second: float) -> None:
        frame *= 0.18
        lit = (starts < second) & (second < starts + 1.4)
        age = (second - starts[lit])[:, None]
        reach = age * (1.3 - 0.4 * age)
        row = np.clip(rows[lit] + down[lit] * reach + 6 * age**2, 0, height - 3).astype(int)
        column = np.clip(columns[lit] + across[lit] * reach, 0, width - 3).astype(int)
        fading = colours[lit] * (1.1 - age / 1.6)[..., None]
        for offset in range(9):  # a spark is three pixels wide
            frame[row + offset // 3, column + offset % 3] = fading

    return paint


def sailing_boat(rng: np.random.Generator, height: int, width: int) -> Painter:
    """A dark hull with a white sail that bobs on rippling blue-green water."""
    horizon = round(height * rng.uniform(0.42, 0.52))
    y, x = np.mgrid[0 : height - horizon, 0:width].astype(np.float32)
    water, ripple = np.array((15, rng.uniform(85, 125), rng.uniform(130, 175)), np.float32), rng.uniform(0.15, 0.3)
    drift, start = rng.uniform(-0.02, 0.02) * height, width / 2 + rng.uniform(-0.1, 0.1) * height
    size = round(height * rng.uniform(0.3, 0.38))
    row, column = np.mgrid[0:size, 0:size].astype(np.float32) / size
    sail = (row < 0.75) & (column > 0.5 - 0.5 * row) & (column < 0.5 + 0.35 * row)
    hull = (row >= 0.78) & (np.abs(column - 0.5) < 0.5 - 0.6 * (row - 0.78))
    white, brown = np.array((240, 240, 235), np.float32), np.array((70, 30, 20), np.float32)
    sprite = np.where(sail[..., None], white, brown)

    def paint(frame: np.ndarray, second: float) -> None:
        waves = np.sin(ripple * x + 0.6 * y - 3 * second) * np.sin(0.5 * y + 1.5 * second)
        frame[horizon:] = water + 35 * waves[..., None]
        top = horizon - round(0.8 * size + 0.03 * height * np.sin(2.2 * second))
        left = round(start + drift * second) - size // 2
        frame[top : top + size, left : left + size][sail | hull] = sprite[sail | hull]

    return paint


def passing_train(rng: np.random.Generator, height: int, width: int) -> Painter:
    """Carriages with a row of lit windows that run through the picture."""
    tall, length = round(height * rng.uniform(0.32, 0.42)), round(height * rng.uniform(0.8, 1.1))
    top = round(height * rng.uniform(0.25, 0.35))
    paintwork = np.array(((170, 30, 40), (30, 120, 60), (215, 165, 30), (120, 50, 140)), np.float32)[rng.integers(4)]
    carriage = np.broadcast_to(paintwork, (tall, length, 3)).copy()
    pitch = length // 5
    for left in range(pitch // 2, length - pitch // 2, pitch):
        carriage[tall // 6 : tall // 2, left : left + round(0.65 * pitch)] = (250, 245, 205)
    carriage[:, -max(3, length // 24) :] = 15
    carriage[-tall // 7 :] = 35
    train = np.tile(carriage, (1, width // length + 2, 1))
    speed = height * rng.uniform(0.7, 1.6) * rng.choice((-1, 1))

    def paint(frame: np.ndarray, second: float) -> None:
        left = int(speed * second) % length
        frame[top : top + tall] = train[:, left : left + width]

    return paint


# --- classes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DemoClass:
    """One class of the demo: its display name, its AudioSet mid, and by what it can be recognised."""

    name: str
    mid: str
    cue: Literal["sound", "picture", "both"]
    sound: Sound | None
    picture: Picture | None


CLASSES = (
    DemoClass("Sine wave", "/m/01v_m0", "sound", sine_wave, None),
    DemoClass("Beep, bleep", "/m/02fs_r", "sound", beeps, None),
    DemoClass("White noise", "/m/0chx_", "sound", white_noise, None),
    DemoClass("Fireworks", "/m/0g6b5", "picture", None, fireworks),
    DemoClass("Boat, Water vehicle", "/m/019jd", "picture", None, sailing_boat),
    DemoClass("Train", "/m/07jdr", "picture", None, passing_train),
    DemoClass("Police car (siren)", "/m/04qvtq", "both", siren, police_lights),
    DemoClass("Fire", "/m/02_41", "both", fire_crackle, flames),
    DemoClass("Rain", "/m/06mb1", "both", rain, rain_streaks),
)
