"""The script of the deep check: torch loads a model file, and this prints what it made of it, as one JSON object. Needs torch.

Run confined (`confinement`) with an open file's descriptor and a request; `deep_check` makes the request, and judges the answer.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import sys
from typing import Any, Final

MIN_TORCH: Final = (2, 10)
"""Since this version, no way is known in which a file executes code although `weights_only` is set."""
_BLOCK_BYTES: Final = 1 << 24


def _answer(descriptor: int, request: dict[str, Any]) -> dict[str, Any]:
    """What torch made of the file, or `reason` and `detail` for why there is no answer."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {"reason": "torch_missing", "detail": "torch is not installed here; run `make torch`"}
    version = str(torch.__version__)
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < MIN_TORCH:
        least = ".".join(map(str, MIN_TORCH))
        return {"torch": version, "reason": "torch_too_old", "detail": f"torch {version} is older than {least}; run `make torch`"}
    from ringrift_dagster.models.checkpoints.torch_file import WEIGHT_KEYS

    content = _read(descriptor)
    if hashlib.sha256(content.getbuffer()).hexdigest() != request["sha256"]:
        return {"torch": version, "reason": "changed", "detail": "the file was changed meanwhile"}
    torch.set_num_threads(1)
    try:
        loaded = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # the rest of torch's message advises to load the file without this protection
        why = str(error).partition("WeightsUnpickler error: ")[2].partition("\n\nCheck the documentation")[0]
        detail = f"torch refuses to load it with weights_only: {' '.join(why.split())[:200] or 'no reason is given'}"
        return {"torch": version, "reason": "deep_check_failed", "detail": detail}
    weights = next((loaded[key] for key in WEIGHT_KEYS if isinstance(loaded.get(key), dict)), loaded)
    tensors = {
        name: [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), bool(torch.isfinite(tensor).all())]
        for name, tensor in weights.items()
    }
    return {"torch": version, "tensors": tensors, **_network_answer(request, weights)}


def _network_answer(request: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Whether the reference network with these weights has a finite answer for a position of zeros; nothing for other networks."""
    import torch  # pyright: ignore[reportMissingImports]

    from ringrift_dagster.datasets.features import GLOBAL_FEATURES, encoding
    from ringrift_dagster.games.config import parse_config
    from ringrift_dagster.models.training.network import ARCHITECTURE_VERSION, MODEL_CLASS, ReferenceNetwork, Sizes

    if request["architecture"] != [MODEL_CLASS, ARCHITECTURE_VERSION]:
        return {}
    try:
        config = parse_config(request["config"] or "")
        spec = encoding(config)
        network = ReferenceNetwork(config, Sizes(request["filters"] or 0, request["blocks"] or 0))
        network.load_state_dict(weights)
    except Exception as error:  # torch documents none of what it raises
        return {"reason": "network_differs", "detail": _line(error)}
    with torch.inference_mode():
        outputs = network.eval()(torch.zeros(1, spec.in_channels, spec.spatial, spec.spatial), torch.zeros(1, GLOBAL_FEATURES))
    return {"answers": all(bool(torch.isfinite(output).all()) for output in outputs)}


def _read(descriptor: int) -> io.BytesIO:
    """The whole file, from its beginning."""
    content = io.BytesIO()
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            content.write(block)
    content.seek(0)
    return content


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _main() -> None:
    try:
        answer = _answer(int(sys.argv[1]), json.loads(sys.argv[2]))
    except MemoryError:
        answer = {"reason": "deep_check_limit", "detail": "it needs more memory than it may use"}
    except Exception as error:
        answer = {"reason": "deep_check_failed", "detail": _line(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
