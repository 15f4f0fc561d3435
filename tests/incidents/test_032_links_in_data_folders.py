"""A linked data folder gave hundreds of errors a second, and a broken link crashed the inventory."""

from __future__ import annotations

from pathlib import Path

import urllib3

from ringrift_dagster.manifest.inventory import NoAnswer
from tests.agents import running_agent

NPZ = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"


def test_links_are_followed_inside_and_nowhere_else(tmp_path: Path) -> None:
    root, outside = tmp_path / "tree", tmp_path / "outside"
    (root / "volume/data/training").mkdir(parents=True)
    (root / "models").mkdir()
    outside.mkdir()
    (root / "volume/data/training/square8_3p.npz").write_bytes(NPZ.read_bytes())
    (outside / "secret_hex8_2p.onnx").write_bytes(b"secret")
    (root / "models/canonical_hex8_2p.onnx").write_bytes(b"model")
    for link, target in {
        "data": "volume/data",
        "volume/data/training/again": "..",
        "models/ringrift_best_hex8_2p.onnx": "canonical_hex8_2p.onnx",
        "models/dangling_hex8_2p.onnx": "nowhere",
        "models/loop_hex8_2p.onnx": "loop_hex8_2p.onnx",
        "models/out_hex8_2p.onnx": str(outside / "secret_hex8_2p.onnx"),
        "models/passwd_hex8_2p.onnx": "../../../../../../../../../../etc/passwd",
        "checkpoints": str(outside),
    }.items():
        (root / link).symlink_to(target)
    with running_agent(root, "gpu-1") as agent:
        answers = [agent.source().read(None, 20) for _ in range(3)]
        for told in answers:
            assert {item.path for item in told.found} == {"data/training/square8_3p.npz", "models/canonical_hex8_2p.onnx"}
            assert {each.path for each in told.untracked if each.reason == "unsafe_link"} == {
                "checkpoints",
                "models/dangling_hex8_2p.onnx",
                "models/loop_hex8_2p.onnx",
                "models/out_hex8_2p.onnx",
                "models/passwd_hex8_2p.onnx",
            }
        for item in answers[0].found:
            assert len(urllib3.request("GET", f"{agent.url}/v1/objects/{item.sha256}").data) == item.size
        metrics = urllib3.request("GET", f"{agent.url}/metrics").data.decode()
        assert 'status="500"' not in metrics


def test_a_data_folder_whose_link_breaks_is_no_crash(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "data").symlink_to(tmp_path / "unmounted")
    with running_agent(root, "gpu-1") as agent:
        try:
            told = agent.source().read(None, 20)
        except NoAnswer as refused:
            raise AssertionError("an inventory without data is still one") from refused
        assert told.found == []
        assert [(each.path, each.reason) for each in told.untracked] == [("data", "unsafe_link")]
