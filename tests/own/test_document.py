"""docs/your-own-app.md shows the files as they are, and they work where a reader copies them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.own import BASES
from tests.conftest import ROOT
from tests.docs.console import blocks
from tests.own.conftest import docker

DOCUMENT = ROOT / "docs/your-own-app.md"
RECIPES = sorted((ROOT / "docker/own").iterdir())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_shown_as_it_is(recipe: Path) -> None:
    language = {".spec": "python", ".Dockerfile": "dockerfile"}.get(recipe.suffix, "text")
    assert recipe.read_text() in [text for _, text in blocks(DOCUMENT, language)]


def test_each_base_has_a_recipe() -> None:
    assert {path.stem for path in RECIPES if path.suffix == ".Dockerfile"} == set(BASES)


@pytest.mark.parametrize("base", BASES)
def test_a_recipe_works_where_it_is_copied_to(base: str, tmp_path: Path) -> None:
    """Without make own: the files of the document, the module's name, docker build."""
    project = tmp_path / "worker"
    shutil.copytree(ROOT / "examples/pillow-worker", project)
    recipe = ROOT / f"docker/own/{base}.Dockerfile"
    (project / "Dockerfile").write_text(recipe.read_text().replace("your.module", "thumbnails"))
    shutil.copy(ROOT / "docker/own/dockerignore", project / ".dockerignore")
    (project / "freezing").mkdir()
    for file in ("docker/own/app.spec", "docker/freeze.py", "requirements/freeze.txt"):
        shutil.copy(ROOT / file, project / "freezing")
    tag = f"own-copied:{base}"
    build = ["docker", "build", "--tag", tag, str(project)]
    result = subprocess.run(build, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr
    try:
        trial = ["docker", "run", "--rm", "--read-only", "--cap-drop=ALL", "--env=INTERVAL=never", tag]
        said = subprocess.run(trial, capture_output=True, text=True, timeout=60)
        # INTERVAL is wrong on purpose: it ends the app after its first turn.
        assert "no picture" in said.stdout and "could not convert string to float: 'never'" in said.stderr
    finally:
        docker("image", "rm", tag)
