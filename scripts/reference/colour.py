"""Prints the expected numbers of the unit test in spire-model/src/restore/colour.rs.

    python colour.py

`wavelet_reconstruction` as in DiffBIR and `adaptive_instance_normalization` as in StableSR, written out in PyTorch.
"""

import torch
import torch.nn.functional as functional

LEVELS = 5
EPSILON = 1e-5
PRINTED = (0, 50, 100, 188)


def ramp(factor: int, modulus: int) -> torch.Tensor:
    """A picture of 9 by 7 pixels by a formula."""
    return (torch.arange(3 * 7 * 9) * factor % modulus / modulus).reshape(1, 3, 7, 9)


def coarse(picture: torch.Tensor) -> torch.Tensor:
    """The low frequencies: the picture after five dilated binomial blurs."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row).expand(3, 1, 3, 3)
    for level in range(LEVELS):
        stride = 2**level
        padded = functional.pad(picture, (stride,) * 4, mode="replicate")
        picture = functional.conv2d(padded, kernel, groups=3, dilation=stride)
    return picture


def statistics(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel."""
    flat = picture.flatten(2)
    return flat.mean(2)[..., None, None], (flat.var(2) + EPSILON).sqrt()[..., None, None]


def main() -> None:
    restored, degraded = ramp(37, 101), ramp(53, 97)
    wavelet = restored - coarse(restored) + coarse(degraded)
    (mean, std), (wanted_mean, wanted_std) = statistics(restored), statistics(degraded)
    adain = (restored - mean) / std * wanted_std + wanted_mean
    for i in PRINTED:
        print(i, f"wavelet {wavelet.flatten()[i]:.7f}  adain {adain.flatten()[i]:.7f}")


if __name__ == "__main__":
    main()
