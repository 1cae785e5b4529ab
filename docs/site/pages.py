"""Collects the pages of the site: the documents where they lie, and one API page a package.

MkDocs takes pages from one folder. Ours lie in several and link to each other and to files of the
repository, so that they can be read there. This hook gives MkDocs all of them under the same paths.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PAGES = ("*.md", "docs/*.md", "examples/**/*.md", "results/**/*.md")
LINKED = (
    "LICENSE",
    "NOTICE",
    "benchmarks/*.py",
    "docs/images/*",
    "examples/**/*",
    "results/**/*.csv",
    "results/**/*.png",
)
PACKAGES = ("policy_server", "sim", "edp_robot", "calibration")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Returns the documents, the files that they link to, and the API pages."""
    theme = [file for file in files if file.src_dir != config.docs_dir and not file.generated_by]
    paths = sorted({path for glob in (*PAGES, *LINKED) for path in ROOT.glob(glob)})
    own = [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for path in paths
        if path.is_file() and path.suffix != ".pyc"
    ]
    api = [File.generated(config, f"api/{name}.md", content=f"::: {name}\n") for name in PACKAGES]
    return Files([*theme, *own, *api])
