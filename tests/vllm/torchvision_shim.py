"""Makes torchvision importable beside a PyTorch without CUDA. Run once, after both are installed.

vLLM imports ``torchvision.transforms``. The wheels of PyPI hold compiled operators that need CUDA's
libraries; where those are missing torchvision goes on without its operators, but then fails while it
describes two of them (``operator torchvision::nms does not exist``). So they are declared, without code:
nothing here calls them. torchvision from PyTorch's own CPU index has its operators, and is left as it is.
"""

from importlib.util import find_spec
from pathlib import Path

_MARK = "# Added by asr-serve: "
_DECLARATIONS = f"""

{_MARK}operators that are described although they could not be loaded.
if not _has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _declared.define(_operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    package = find_spec("torchvision")
    if package is None or package.origin is None:
        raise SystemExit("torchvision is not installed here, so there is nothing to mend.")
    # The module that tries to load the operators, and is imported before those that describe them.
    path = Path(package.origin).with_name("extension.py")
    text = path.read_text(encoding="utf-8")
    if _MARK not in text:
        path.write_text(text + _DECLARATIONS, encoding="utf-8")


if __name__ == "__main__":
    main()
