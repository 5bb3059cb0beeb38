"""The benchmarks' own machinery: the reference is right, and a missed target fails."""

import json
import sys
import types

import pytest

from benchmarks import __main__ as command
from benchmarks import distance


@pytest.mark.parametrize("kernel", distance.KERNELS)
@pytest.mark.parametrize("members", [0, 2])
def test_reference_and_package_agree(kernel, members):
    assert 0 <= distance.error(9, 3, members, kernel) < 1e-12


@pytest.mark.parametrize("missed", [[], ["twice as fast"]])
def test_a_missed_target_fails_and_what_was_measured_is_kept(tmp_path, monkeypatch, capsys, missed):
    monkeypatch.setattr(command, "FOLDER", tmp_path)
    monkeypatch.setattr(command, "names", ["other"])
    results = tmp_path / "results"
    for value in (1, 2):
        module = types.SimpleNamespace(run=lambda value=value: ({"rows": [value]}, missed))
        monkeypatch.setitem(sys.modules, "benchmarks.other", module)
        assert command.main([]) == len(missed)
        (path,) = results.iterdir()
        found = json.loads(path.read_text())
        assert found["other"]["rows"] == [value]
        assert {"processor", "threads", "torch"} <= found["other"]["machine"].keys()
    assert ("MISSED other: twice as fast" in capsys.readouterr().out) == bool(missed)
    assert command.main(["nothing"]) == 2
