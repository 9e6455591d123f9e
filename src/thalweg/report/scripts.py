"""The page's one script: only what the page needs, and the hash by which its policy lets it run."""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

DOES = {"surface": "turns the loss surface", "frames": "moves through the frames of a figure"}
"""Files of scripts, and what each does, in words of the page."""


def page_script(names: Sequence[str]) -> tuple[str, str, str] | None:
    """The scripts of these names in one, without comments and indents; its hash; and what it does. None if it is none.

    The page's policy names the hash, so that a browser runs this script and no other.
    """
    if not names:
        return None
    lines: list[str] = []
    for name in names:
        text = (Path(__file__).parent / f"{name}.js").read_text(encoding="utf-8")
        lines += [re.sub(r"(^|\s)// .*", "", line).strip() for line in text.splitlines()]
    script = "\n".join(line for line in lines if line)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return script, hashed, " and ".join(DOES[name] for name in names)
