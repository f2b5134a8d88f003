"""Superpixels: the segments of an image that stand for its features."""

import numpy as np


def superpixels(image: np.ndarray, num_segments: int = 64, *, compactness: float = 10.0) -> tuple[np.ndarray, int]:
    """Divides an image into segments of similar colour (SLIC): the `groups` and `num_groups` of mask-based methods.

    Needs scikit-image: `pip install "jaxinterp[images]"`.

    Args:
      image: raw pixels [height, width, channels], integers 0..255 or numbers 0..1.
      num_segments: about how many.
      compactness: how square they are, against how uniform.

    Returns:
      The segment of each entry, int32 like the image, numbered from 0; and how many there are.

    Raises:
      ImportError: if scikit-image is not installed.
      ValueError: if the image has not three axes.

    Source: Achanta, Shaji, Smith, Lucchi, Fua & Süsstrunk (2012).
    """
    if np.ndim(image) != 3:
        raise ValueError(f"`superpixels` divides one image [height, width, channels]; got shape {np.shape(image)}.")
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError('`superpixels` needs scikit-image: pip install "jaxinterp[images]"') from error
    segments = slic(np.asarray(image), n_segments=num_segments, compactness=compactness, start_label=0)
    _, numbers = np.unique(segments, return_inverse=True)
    groups = np.broadcast_to(numbers.reshape(segments.shape)[..., None], np.shape(image)).astype(np.int32)
    return groups, int(groups.max()) + 1
