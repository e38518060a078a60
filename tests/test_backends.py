"""Which form of a model is loaded: what is there, what somebody asks for, and what the processor has."""

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from deployments.engines.backends import choose_backend
from deployments.engines.base import Precision
from deployments.engines.model_files import ModelFilesError
from deployments.engines.onnx_weights import has_signed_weights
from tests.whole_models import write_checkpoint

SIGNED, UNSIGNED, EXACT = TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT
OLD, VNNI = frozenset({"avx2"}), frozenset({"avx512_f", "avx512_vnni"})
BF16 = VNNI | {"avx512_bf16"}
AMX = BF16 | {"amx_bf16", "amx_int8"}


def write_graph(path: Path, weights: int) -> Path:
    """A graph that adds a constant of some type of weights, with a name of fields that come before."""
    constant = helper.make_tensor("weight", weights, [3], [1, 2, 3])
    given = helper.make_tensor_value_info("x", weights, [3])
    result = helper.make_tensor_value_info("y", weights, [3])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "weight"], ["y"])], "g", [given], [result], [constant]
    )
    onnx.save(helper.make_model(graph, producer_name="test"), path)
    return path


@pytest.fixture
def both(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model.pt")
    write_graph(tmp_path / "model_quant.onnx", SIGNED)
    return tmp_path


def on(monkeypatch: pytest.MonkeyPatch, instructions: frozenset[str]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))


@pytest.mark.parametrize(
    ("instructions", "weights", "name", "expected"),
    [
        (OLD, SIGNED, "model_quant.onnx", "onnx"),
        (VNNI, SIGNED, "model_quant.onnx", "onnx"),
        (VNNI, UNSIGNED, "model_quant.onnx", "onnx"),
        (VNNI, EXACT, "model.onnx", "torch"),
        (BF16, SIGNED, "model_quant.onnx", "onnx"),
        (BF16, UNSIGNED, "model_quant.onnx", "torch"),
        (AMX, SIGNED, "model_quant.onnx", "torch"),
    ],
)
def test_of_both_forms_the_faster_one_on_this_processor(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    instructions: frozenset[str],
    weights: int,
    name: str,
    expected: str,
) -> None:
    on(monkeypatch, instructions)
    write_checkpoint(tmp_path / "model.pt")
    write_graph(tmp_path / name, weights)
    assert choose_backend("auto", tmp_path, "cpu") == expected
    assert choose_backend("auto", tmp_path, "cuda:0") == "torch"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_means_pytorch(
    monkeypatch: pytest.MonkeyPatch, both: Path, precision: Precision
) -> None:
    on(monkeypatch, VNNI)
    assert choose_backend("auto", both, "cpu", precision) == "torch"
    assert choose_backend("onnx", both, "cpu", precision) == "onnx"


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch, both: Path) -> None:
    for instructions in (OLD, AMX):
        on(monkeypatch, instructions)
        assert choose_backend("torch", both, "cpu") == "torch"
        assert choose_backend("onnx", both, "cpu") == "onnx"


def test_the_only_form_is_taken(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    write_checkpoint(tmp_path / "torch" / "model.pt")
    (tmp_path / "onnx").mkdir()
    write_graph(tmp_path / "onnx" / "model.onnx", EXACT)
    for device in ("cpu", "cuda"):
        assert choose_backend("auto", tmp_path / "torch", device) == "torch"
        assert choose_backend("auto", tmp_path / "onnx", device) == "onnx"


def test_a_form_that_is_missing_is_an_error_that_says_how_to_get_it(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "model_quant.onnx", SIGNED)
    with pytest.raises(ModelFilesError, match=r"no model\.pt.*asr-serve models pull"):
        choose_backend("torch", tmp_path, "cpu")
    graph.unlink()
    write_checkpoint(tmp_path / "model.pt")
    with pytest.raises(ModelFilesError, match=r"model_quant\.onnx.*asr-serve models export"):
        choose_backend("onnx", tmp_path, "cpu")
    with pytest.raises(ValueError, match="auto, torch, onnx"):
        choose_backend("openvino", tmp_path, "cpu")  # type: ignore[arg-type]


def test_signed_weights_are_told_from_others(tmp_path: Path) -> None:
    assert has_signed_weights(write_graph(tmp_path / "a.onnx", SIGNED))
    assert not has_signed_weights(write_graph(tmp_path / "b.onnx", UNSIGNED))
    assert not has_signed_weights(write_graph(tmp_path / "c.onnx", EXACT))
    (tmp_path / "d.onnx").write_bytes(b"")
    (tmp_path / "e.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:12])
    (tmp_path / "f.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    for name in ("d", "e", "f", "missing"):
        assert not has_signed_weights(tmp_path / f"{name}.onnx"), name
