"""run.yaml in run folders: written once, science kept, speed refreshed."""

from dataclasses import replace

import pytest

from jobs.handover import prepare
from scaling.spec import load_spec


def test_prepare_writes_what_loads_back(tmp_path, make_spec):
    specs = [make_spec(0), make_spec(1)]
    prepare(specs, tmp_path)
    for spec in specs:
        assert load_spec(tmp_path / spec.run_id / "run.yaml") == spec


def test_preparing_twice_does_not_touch_the_file(tmp_path, make_spec):
    spec = make_spec()
    prepare([spec], tmp_path)
    path = tmp_path / spec.run_id / "run.yaml"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    prepare([spec], tmp_path)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_speed_is_refreshed_and_the_first_study_keeps_its_labels(tmp_path, make_spec):
    spec = make_spec()
    prepare([spec], tmp_path)
    faster = replace(
        spec,
        study="sweeps.other",
        axes={"size": "tiny"},
        engine=replace(spec.engine, threads=2, log_every=5),
        data=replace(spec.data, root="/elsewhere"),
    )
    assert faster.run_id == spec.run_id
    prepare([faster], tmp_path)
    written = load_spec(tmp_path / spec.run_id / "run.yaml")
    assert (written.engine.threads, written.engine.log_every) == (2, 5)
    assert written.data.root == "/elsewhere"
    assert (written.study, written.axes) == (spec.study, spec.axes)


def test_a_done_run_is_left_as_it_was(tmp_path, make_spec):
    spec = make_spec()
    prepare([spec], tmp_path)
    (tmp_path / spec.run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    prepare([replace(spec, engine=replace(spec.engine, threads=2))], tmp_path)
    assert load_spec(tmp_path / spec.run_id / "run.yaml") == spec


def test_a_run_yaml_with_edited_science_is_refused(tmp_path, make_spec):
    spec = make_spec()
    prepare([spec], tmp_path)
    path = tmp_path / spec.run_id / "run.yaml"
    path.write_text(path.read_text().replace("num_steps: 10", "num_steps: 11"))
    with pytest.raises(ValueError, match=f"not {spec.run_id}: its science was edited"):
        prepare([spec], tmp_path)
