from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.config.load import load_config, load_fixed_places
from nas.config.overrides import Overrides
from nas.config.places import RecordedPlaces, path_keys, portable, without_places
from tests.support.search_file import make_search_config, search_values


def written(config: Any, fixed: dict[str, str], run: Path) -> dict[str, Any]:
    return portable(config.as_dict(), fixed, run)


def test_every_key_with_a_path_is_known() -> None:
    names = {".".join(key) for key in path_keys()}
    assert names == {"data.manifest", "data.folder", "data.images", "encoders.image", "encoders.text"}
    values = without_places(make_search_config().as_dict())
    assert values["encoders"] == {} and "manifest" not in values["data"] and "columns" in values["data"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("vit", "bert", "images"):
        (folder / name).mkdir(parents=True)
    (folder / "manifest.csv").touch()
    return folder


def test_paths_are_recorded_as_the_search_file_gives_them(project: Path) -> None:
    source = project / "search.yaml"
    data = {"manifest": str(project / "manifest.csv"), "max_text_tokens": 8}
    source.write_text(yaml.safe_dump(search_values(data=data, encoders={"image": "~/vit", "text": "google/bert"})))
    config, fixed = load_config(source), load_fixed_places(source)
    values = written(config, fixed, project / "run")
    assert values["data"]["manifest"] == str(project / "manifest.csv")
    assert values["data"]["images"] == str(project), "the folder of the manifest, which is absolute"
    assert values["encoders"] == {"image": "~/vit", "text": "google/bert"}
    child = project / "child.yaml"
    child.write_text("extends: search.yaml\nencoders: {image: ./vit}\n")
    assert load_fixed_places(child).keys() == {"data.manifest", "data.images"}
    assert written(load_config(child), load_fixed_places(child), project)["encoders"]["image"] == "./vit"


def test_relative_paths_are_found_from_the_run_then_from_where_it_was(project: Path, tmp_path: Path) -> None:
    source = project / "search.yaml"
    source.write_text(yaml.safe_dump(search_values()))
    values = written(load_config(source), {}, project / "runs" / "a")
    assert values["encoders"] == {"image": "../../vit", "text": "../../bert"}
    alone, _ = RecordedPlaces(tmp_path / "b", project / "runs" / "a").resolve(values)
    assert alone["encoders"]["image"] == str(project / "vit")
    (tmp_path / "link").symlink_to(project / "runs")
    (project / "runs" / "a").mkdir(parents=True)
    assert written(load_config(source), {}, tmp_path / "link" / "a")["encoders"] == values["encoders"]
    linked, _ = RecordedPlaces(tmp_path / "link" / "a", Path("/nowhere/at/all")).resolve(values)
    assert linked["encoders"]["image"] == str(project / "vit")
    project.rename(tmp_path / "other")
    run = tmp_path / "other" / "runs" / "a"
    moved, fixed = RecordedPlaces(run, project / "runs" / "a").resolve(values)
    assert moved["encoders"]["image"] == str(tmp_path / "other" / "vit") and not fixed
    absolute = {"data": {"manifest": str(project / "manifest.csv")}}
    found, fixed = RecordedPlaces(run, project / "runs" / "a").resolve(absolute)
    assert found["data"]["manifest"] == str(tmp_path / "other" / "manifest.csv") and not fixed
    missing, fixed = RecordedPlaces(tmp_path / "b", tmp_path / "c").resolve(absolute)
    assert missing == absolute and fixed == {"data.manifest": str(project / "manifest.csv")}


def test_images_follow_a_manifest_to_another_folder_if_they_are_there(project: Path, tmp_path: Path) -> None:
    source = project / "search.yaml"
    source.write_text(yaml.safe_dump(search_values()))
    config, new = load_config(source), tmp_path / "new"
    overrides = Overrides(data=str(new / "m.csv"))
    assert overrides.apply(config).data.images == str(project / "images")
    (new / "images").mkdir(parents=True)
    moved = overrides.apply(config).data
    assert (moved.manifest, moved.images) == (str(new / "m.csv"), str(new / "images"))
    assert overrides.fixed_places(config, {"encoders.text": "/x"}) == {
        "data.manifest": str(new / "m.csv"),
        "data.images": str(new / "images"),
        "encoders.text": "/x",
    }
    assert Overrides(data="m.csv", images="z.zip").apply(config).data.images == str(Path.cwd() / "z.zip")
