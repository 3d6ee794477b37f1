"""The noise of seeded sampling: it depends on nothing but its name.

The noise of vocabulary id `v` for `(seed, choice, index)` is a counter hash, so that a row draws the same noise in any
batch, on any worker and after any fault:

    key = splitmix64 folded over seed, choice, index                        (64 bits; on the host)
    h   = mix32(high(key) ^ mix32(low(key) + v * 0x9E3779B1))               (signed 32 bits, wrap-around; on the device)
    u   = (h + 2**31 + 1/2) / 2**32, in float64, so 0 < u < 1
    gumbel = -log(-log(u))

splitmix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. mix32: the two-multiply
32-bit finaliser `lowbias32` of C. Wellons' hash prospector. Up to `h` all is integer and so bit-equal on CPU and CUDA.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from workers.engine import Sample

_MASK64 = (1 << 64) - 1
_GOLDEN64 = 0x9E3779B97F4A7C15


def gumbel_noise(samples: Sequence[Sample], vocabulary: int, device: torch.device) -> torch.Tensor:
    """float64 `[R, V]`, standard Gumbel."""
    uniform = (noise_bits(samples, vocabulary, device).double() + (2.0**31 + 0.5)) * 2.0**-32
    return uniform.log_().neg_().log_().neg_()


def noise_bits(samples: Sequence[Sample], vocabulary: int, device: torch.device) -> torch.Tensor:
    """The integer part of the noise, `h` as int32 `[R, V]`."""
    keys = [noise_key(sample.params.seed, sample.choice, sample.index) for sample in samples]
    low = torch.tensor([_signed32(key) for key in keys], dtype=torch.int32, device=device)
    high = torch.tensor([_signed32(key >> 32) for key in keys], dtype=torch.int32, device=device)
    ids = torch.arange(vocabulary, dtype=torch.int32, device=device) * _signed32(0x9E3779B1)
    return _mix32(_mix32(low[:, None] + ids).bitwise_xor_(high[:, None]))


def noise_key(seed: int, choice: int, index: int) -> int:
    """64 bits that name one draw. Integers are taken modulo 2**64."""
    key = 0
    for word in (seed, choice, index):
        key = _splitmix64(key ^ (word & _MASK64))
    return key


def _splitmix64(state: int) -> int:
    state = (state + _GOLDEN64) & _MASK64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK64
    return state ^ (state >> 31)


def _mix32(x: torch.Tensor) -> torch.Tensor:
    """Bijective on 32 bits, in place. Torch shifts int32 arithmetically: the mask makes the shift logical."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x.bitwise_xor_((x >> shift).bitwise_and_((1 << (32 - shift)) - 1)).mul_(_signed32(factor))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def _signed32(word: int) -> int:
    """The low 32 bits of `word` as the int32 with the same bits."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word
