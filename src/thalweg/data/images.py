"""Pictures as one array that a network takes."""

from collections.abc import Sequence

import numpy as np

from thalweg.errors import UserError


def stack_images(images: Sequence[np.ndarray], *, channels: int = 3) -> np.ndarray:
    """Pictures of one size as an array (n, height, width, channels) of float32, channels last.

    Args:
        images: each (height, width, channels), or (height, width) where it is grey: its one channel is repeated.
        channels: that the network takes.
    Raises:
        UserError: no pictures; one that is none, of another size than the first, with other channels, or with a value
            that is not finite in float32. It is named by its number.

    >>> stack_images([np.zeros((4, 5)), np.ones((4, 5, 3))]).shape
    (2, 4, 5, 3)
    """
    found: list[np.ndarray] = []
    for number, image in enumerate(images):
        array, where = np.asarray(image), f"picture {number}, counted from 0, of shape {np.shape(image)}"
        if array.ndim not in (2, 3) or not array.size or array.dtype.kind not in "buif":
            remedy = "A picture has the shape (height, width) or (height, width, channels)."
            raise UserError("this is no picture of numbers", where=where, remedy=remedy)
        grey = array.ndim == 2 or array.shape[2] == 1
        if not grey and array.shape[2] != channels:
            remedy = "An alpha channel is left out by image[..., :3]; channels come last."
            raise UserError(f"a picture with {array.shape[2]} channels, not {channels}", where=where, remedy=remedy)
        with np.errstate(over="ignore"):
            pixels = array.astype(np.float32)
        if not np.isfinite(pixels).all():
            what = "too large for float32" if np.isfinite(array).all() else "not finite"
            raise UserError(f"a picture has a value that is {what}", where=where)
        if found and array.shape[:2] != found[0].shape[:2]:
            size, first = (" × ".join(map(str, shape)) for shape in (array.shape[:2], found[0].shape[:2]))
            remedy = "Resize or crop the pictures to one size."
            raise UserError(f"pictures of several sizes: {size} after {first}", where=where, remedy=remedy)
        array = pixels.reshape(*array.shape[:2], -1)
        found.append(np.repeat(array, channels, axis=2) if grey else array)
    if not found:
        raise UserError("there are no pictures", where="stack_images")
    return np.stack(found)
