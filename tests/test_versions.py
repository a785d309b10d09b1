"""Results of other versions in a store are counted, whatever their fields are."""

import json
from pathlib import Path

from test_spec import RESNET110, SCHEMA_2

from study.spec import PROTOCOL, SCHEMA, Version
from study.store import versions


def add(store: Path, id: str, content: str) -> None:
    folder = store / "trials" / id
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(content)


def test_trials_of_another_schema_are_counted_and_this_codes_own_are_not(tmp_path: Path) -> None:
    add(tmp_path, RESNET110.id, json.dumps(RESNET110.to_dict(), indent=2))
    assert versions.others(tmp_path) == {}
    add(tmp_path, "plain20-digits-db4071fd3f-s0", json.dumps(SCHEMA_2, indent=2))
    assert versions.others(tmp_path) == {Version(2, 1): 1}
    assert versions.version(tmp_path / "trials" / RESNET110.id) == Version(SCHEMA, PROTOCOL)


def test_a_folder_without_a_specification_of_its_id_is_of_no_version(tmp_path: Path) -> None:
    add(tmp_path, "damaged", "{")
    add(tmp_path, "foreign", "[1]")
    add(tmp_path, "resnet110A-cifar10-0000000000-s0", json.dumps(RESNET110.to_dict()))
    assert versions.others(tmp_path) == {} == versions.others(tmp_path / "none")
